package eventlog_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/eventlog/eventlogtest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
)

// everything is all that this package does with a log.
func everything(b []byte) {
	l, err := eventlog.Parse(b)
	if err != nil {
		return
	}
	l.Replay()
	l.Disagreements()
	l.SecureBoot()
	eventlog.NewView(l) // Explain, Violations, Departures
	for _, e := range l.Events {
		e.Image()
		e.PartitionTable()
		e.Tag()
		if v, ok := e.Variable(); ok {
			v.SignatureLists()
			v.BootOption()
		}
	}
}

// full repeats an event until the log is as large as a log may be.
func full(pcr int, typ uint32, data []byte) []byte {
	const fixed = 12 + 2 + digest.Size + 4 // of an event
	l := evidencetest.NewLog()
	n := (eventlog.MaxBytes - len(l.Bytes())) / (fixed + len(data))
	for range min(n, eventlog.MaxEvents-1) {
		l.AddHashed(pcr, typ, data)
	}
	return l.Bytes()
}

// certificate makes a self-signed certificate with many names in its subject.
func certificate(t *testing.T, names int) []byte {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	subject := pkix.Name{}
	for range names {
		subject.ExtraNames = append(subject.ExtraNames, pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 41}, Value: "n"})
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: subject}
	der, err := x509.CreateCertificate(rand.Reader, c, c, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// worst are the logs of 256 KiB that cost the most: many events, and large data of each kind that has a reader.
func worst(t *testing.T) map[string][]byte {
	const large = eventlog.MaxDataBytes
	wide := evidencetest.UTF16(strings.Repeat("w", large/2-1))
	entries := func(kind string, entry uint32, n int) []byte {
		b := append([]byte(kind), binary.LittleEndian.AppendUint32(nil, 28+entry*uint32(n))...)
		b = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(b, 0), entry)
		return append(b, make([]byte, entry*uint32(n))...)
	}
	x509 := "\xa1\x59\xc0\xa5\xe4\x94\xa7\x4a\x87\xb5\xab\x15\x5c\x2b\xf0\x72"
	gpt := append([]byte("EFI PART"), make([]byte, 84)...)
	gpt = binary.LittleEndian.AppendUint64(gpt, 511)
	gpt = append(gpt, bytes.Repeat([]byte("p\x00"), (large-len(gpt))/2)...)
	path := bytes.Repeat([]byte{4, 4, 6, 0, 'x', 0}, large/6-10)
	image := append(make([]byte, 24), binary.LittleEndian.AppendUint64(nil, uint64(len(path)))...)
	return map[string][]byte{
		"many small events":          full(14, eventlog.TypeIPL, nil),
		"many unknown events":        full(0, 0xDEADBEEF, []byte("0123456789")),
		"many violations":            full(7, eventlog.TypeEFIVariableConfig, []byte("0123456789")),
		"many variables":             full(7, eventlog.TypeEFIVariableConfig, evidencetest.Variable("db", nil)),
		"long variable names":        full(7, eventlog.TypeEFIVariableConfig, evidencetest.Variable(strings.Repeat("n", large/2-40), nil)),
		"many empty lists":           full(7, eventlog.TypeEFIVariableConfig, evidencetest.Variable("db", bytes.Repeat(entries(x509, 16, 0), large/28-2))),
		"many empty entries":         full(7, eventlog.TypeEFIVariableConfig, evidencetest.Variable("db", entries(x509, 16, large/16-8))),
		"many certificates":          full(7, eventlog.TypeEFIVariableConfig, evidencetest.Variable("dbx", entries(x509, 8000, 8))),
		"small certificates":         full(7, eventlog.TypeEFIAuthority, evidencetest.Variable("Shim", certificate(t, 0))),
		"certificates of many names": full(7, eventlog.TypeEFIAuthority, evidencetest.Variable("Shim", certificate(t, 240))),
		"long texts":                 full(8, eventlog.TypeIPL, bytes.Repeat([]byte("x"), large)),
		"long wide texts":            full(12, eventlog.TypeIPL, wide),
		"long versions":              full(0, eventlog.TypeSCRTMVersion, wide),
		"long actions":               full(4, eventlog.TypeEFIAction, bytes.Repeat([]byte("\xFF"), large)),
		"partitions":                 full(5, eventlog.TypeEFIGPT, gpt),
		"device paths of one node":   full(4, eventlog.TypeEFIApplication, append(image, path...)),
		"boot options":               full(1, eventlog.TypeEFIVariableBoot, evidencetest.Variable("Boot0000", append([]byte{0, 0, 0, 0, 0xFF, 0xFF}, wide[:large-200]...))),
		"boot orders":                full(1, eventlog.TypeEFIVariableBoot, evidencetest.Variable("BootOrder", wide[:large-200])),
	}
}

// Whatever a log of 256 KiB holds, all that is done with it takes less than 32 MiB, freed or not.
func TestAtMost32MiBForAnyLog(t *testing.T) { // not parallel: it counts the memory of the process
	logs := worst(t)
	for _, l := range eventlogtest.All(t) {
		logs[l.Name] = l.Bytes
	}
	for name, b := range logs {
		if len(b) > eventlog.MaxBytes {
			t.Fatalf("%s has %d bytes", name, len(b))
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		everything(b)
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 32<<20 {
			t.Errorf("%s: %d bytes took %d bytes of memory", name, len(b), got)
		} else if testing.Verbose() {
			t.Logf("%s: %d bytes, %d KiB", name, len(b), got>>10)
		}
	}
}

// Twice the events take at most about twice the memory: nothing is kept per pair of events.
func TestMemoryGrowsWithTheLog(t *testing.T) { // not parallel, as above
	cost := func(n int) uint64 {
		l := evidencetest.NewLog()
		for range n {
			l.AddHashed(7, eventlog.TypeEFIVariableConfig, evidencetest.Variable("db", nil))
		}
		b := l.Bytes()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		everything(b)
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	if small, large := cost(500), cost(1000); large > 3*small {
		t.Errorf("500 events take %d bytes, 1000 take %d", small, large)
	}
}

func FuzzParse(f *testing.F) {
	for _, l := range eventlogtest.All(f) {
		f.Add(l.Bytes)
	}
	f.Add(evidencetest.NewLog().Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		evidencetest.Bounded(t, len(b), func() { everything(b) })
		l, err := eventlog.Parse(b)
		if err != nil {
			if len(l.Events) != 0 {
				t.Fatal("a refused log has events")
			}
			return
		}
		for i, e := range l.Events {
			if e.Index != i || e.PCR < 0 || e.PCR > eventlog.MaxPCR || e.Explain() == "" {
				t.Fatalf("event %d: %+v", i, e)
			}
		}
		for _, v := range slices.Concat(l.Violations(), l.Departures()) {
			if v.Event >= len(l.Events) || v.Rule == "" || v.Detail == "" {
				t.Fatalf("%+v", v)
			}
		}
	})
}

// FuzzEvent looks at the readers of event data, which a fuzzer of whole logs reaches too seldom.
func FuzzEvent(f *testing.F) {
	for _, l := range eventlogtest.All(f) {
		log, err := eventlog.Parse(l.Bytes)
		if err != nil {
			continue
		}
		seen := map[uint32]int{}
		for _, e := range log.Events {
			if seen[e.Type]++; seen[e.Type] <= 2 && len(e.Data) < 4096 {
				f.Add(uint8(e.PCR), e.Type, e.Data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, pcr uint8, typ uint32, data []byte) {
		e := eventlog.Event{PCR: int(pcr % (eventlog.MaxPCR + 1)), Type: typ, Data: data, Digest: digest.Of(data)}
		evidencetest.Bounded(t, len(data), func() { _ = e.Explain() })
		if text := e.Explain(); text == "" || len(text) > 16<<10 || strings.ContainsAny(text, "\x00\x1b\r\n") {
			t.Fatalf("explanation %q", text)
		}
		if i, ok := e.Image(); ok && len(i.Path) > 64 {
			t.Fatalf("a path of %d nodes", len(i.Path))
		}
		if p, ok := e.PartitionTable(); ok && len(p.Partitions)*128 > len(data) {
			t.Fatalf("%d partitions in %d bytes", len(p.Partitions), len(data))
		}
		if tag, ok := e.Tag(); ok && len(tag.Data) > len(data) {
			t.Fatal("a tag beyond its event")
		}
		if v, ok := e.Variable(); ok {
			v.BootOption()
			lists, _ := v.SignatureLists()
			for _, l := range lists {
				if len(l.Entries)*16 > len(v.Data) {
					t.Fatalf("%d signatures in %d bytes", len(l.Entries), len(v.Data))
				}
			}
		}
		l := eventlog.Log{Events: []eventlog.Event{{}, e}}
		wantOnePass(t, l)
		broken := names(l.Violations())
		image := e.Type == eventlog.TypeEFIApplication || e.Type == eventlog.TypeEFIBootDriver || e.Type == eventlog.TypeEFIRuntimeDriver
		if _, ok := e.Image(); image && ok == slices.Contains(broken, "image-form") {
			t.Fatalf("an image that can be read (%t), and breaks %v", ok, broken)
		}
		table := e.Type == eventlog.TypeEFIGPT || e.Type == eventlog.TypeEFIGPT2
		if _, ok := e.PartitionTable(); table && ok == slices.Contains(broken, "partition-table-form") {
			t.Fatalf("a partition table that can be read (%t), and breaks %v", ok, broken)
		}
	})
}
