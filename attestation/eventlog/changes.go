package eventlog

// Change is a measurement that one boot made otherwise than another: Before is what stood in its place, After what stands
// there now. One of them is nil for a measurement that is gone, or new.
type Change struct {
	PCR           int
	Before, After *Event
}

// Changes compares what two boots extended, register by register, by the digests. What both have, in the same order, is left
// out; what lies between stands for each other. It returns at most limit Changes, by register.
//
// The logs are believed: whoever has not replayed them against a quote learns what they say and no more.
func Changes(before, after Log, limit int) []Change {
	var out []Change
	was, is := byRegister(before), byRegister(after)
	for pcr := range MaxPCR + 1 {
		for _, c := range changed(was[pcr], is[pcr]) {
			if len(out) == limit {
				return out
			}
			c.PCR = pcr
			out = append(out, c)
		}
	}
	return out
}

func byRegister(l Log) (out [MaxPCR + 1][]Event) {
	for _, e := range l.Events {
		if e.counts() {
			out[e.PCR] = append(out[e.PCR], e)
		}
	}
	return out
}

// changed aligns two sequences by what they have in common. What lies between two common measurements stands for each other.
func changed(was, is []Event) []Change {
	for len(was) > 0 && len(is) > 0 && was[0].Digest == is[0].Digest {
		was, is = was[1:], is[1:]
	}
	for len(was) > 0 && len(is) > 0 && was[len(was)-1].Digest == is[len(is)-1].Digest {
		was, is = was[:len(was)-1], is[:len(is)-1]
	}
	if len(was)*len(is) > maxAlignment {
		return paired(was, is)
	}
	var out []Change
	common := commonLengths(was, is)
	i, j := 0, 0 // what is aligned
	for a, b := 0, 0; ; {
		switch {
		case a < len(was) && b < len(is) && was[a].Digest == is[b].Digest:
			out = append(out, paired(was[i:a], is[j:b])...)
			a, b = a+1, b+1
			i, j = a, b
		case a < len(was) && (b == len(is) || common[a+1][b] >= common[a][b+1]):
			a++
		case b < len(is):
			b++
		default:
			return append(out, paired(was[i:], is[j:])...)
		}
	}
}

// maxAlignment bounds the work of one register. Between the same beginning and the same end a boot has a few measurements.
const maxAlignment = 1 << 18

// commonLengths holds, for every pair of places, how long the longest common subsequence of what follows is.
func commonLengths(was, is []Event) [][]uint16 {
	out := make([][]uint16, len(was)+1)
	for a := range out {
		out[a] = make([]uint16, len(is)+1)
	}
	for a := len(was) - 1; a >= 0; a-- {
		for b := len(is) - 1; b >= 0; b-- {
			if was[a].Digest == is[b].Digest {
				out[a][b] = out[a+1][b+1] + 1
				continue
			}
			out[a][b] = max(out[a+1][b], out[a][b+1])
		}
	}
	return out
}

func paired(was, is []Event) []Change {
	var out []Change
	for i := range max(len(was), len(is)) {
		var c Change
		if i < len(was) {
			c.Before = &was[i]
		}
		if i < len(is) {
			c.After = &is[i]
		}
		out = append(out, c)
	}
	return out
}
