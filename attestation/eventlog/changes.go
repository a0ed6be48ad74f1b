package eventlog

// Change is a measurement that one boot made otherwise than another: Before is what stood in its place, After what stands
// there now. One of them is nil for a measurement that is gone, or new.
type Change struct {
	PCR           int
	Before, After *Event
}

// Changes compares what two boots extended, register by register, by the digests. What is the same at the beginning and at
// the end of a register is left out; between the two, measurements stand for each other in their order. It returns at most
// limit Changes, by register.
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

func changed(was, is []Event) []Change {
	for len(was) > 0 && len(is) > 0 && was[0].Digest == is[0].Digest {
		was, is = was[1:], is[1:]
	}
	for len(was) > 0 && len(is) > 0 && was[len(was)-1].Digest == is[len(is)-1].Digest {
		was, is = was[:len(was)-1], is[:len(is)-1]
	}
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
