package evidencetest

import (
	"bytes"
	"encoding/binary"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// hashList is EFI_CERT_SHA256_GUID, the type of a list of SHA-256 digests.
const hashList = "\x26\x16\xc4\xc1\x4c\x50\x92\x40\xac\xa9\x41\xf9\x36\x93\x43\x28"

// signatureLists returns a db variable whose one EFI_SIGNATURE_LIST has this type and these sizes; "" is a type that no
// specification lists.
func signatureLists(kind string, list, header, entry uint32, body int) []byte {
	out := make([]byte, 16, 28+body)
	copy(out, kind)
	for _, n := range []uint32{list, header, entry} {
		out = binary.LittleEndian.AppendUint32(out, n)
	}
	return append(out, make([]byte, body)...)
}

// withKeys pretends that the firmware holds other Secure Boot variables.
func withKeys(keys map[string][]byte) Tweak {
	return func(p *Platform) {
		for name, value := range keys {
			p.Keys[name] = value
		}
	}
}

// stateCases are authentic Evidence of a wrong state.
func stateCases() []Case {
	mismatch := only(reason.PCRMismatch)
	cases := []Case{
		{ID: "N87", Name: "PCR 5 changes within one boot", About: "a boot register has another value than earlier in the same boot", Device: func(s *Scenario) {
			s.Accept()
			s.Tick()
			more(5, eventlog.TypeEFIAction, digest.Of([]byte("later")), []byte("later"))(s)
		}, Reasons: mismatch},
		{ID: "N87", Name: "PCR 4 changes within one boot", About: "the same for the register of programs", Device: func(s *Scenario) {
			s.Boot(Next)
			s.Accept()
			s.Log = NewScenario("device", Current).Log
			s.Registers = s.Log.PCRs()
			s.Tick()
		}, Reasons: mismatch},
		{ID: "N117", Name: "dbx shrunk", About: "the firmware lost its revocations", Device: func(s *Scenario) {
			s.Policy.SecureBoot = true
			secure := NewScenario("device", Current, SecureBootOn())
			s.Baseline = secure.Baseline
			s.Boot(Current, SecureBootOn(), withKeys(map[string][]byte{"dbx": nil}))
		}, Reasons: mismatch},
		{ID: "N118", Name: "command line", About: "init=/bin/sh was added to the command line, and measured", Device: more(12, eventlog.TypeIPL, digest.Of([]byte("init=/bin/sh")), UTF16("init=/bin/sh")), Reasons: mismatch},
		{ID: "N119", Name: "unsigned add-on", About: "a systemd-stub add-on was measured into PCR 12", Device: more(12, eventlog.TypeIPL, digest.Of([]byte(".addon")), UTF16("debug.addon.efi")), Reasons: mismatch},
		{ID: "N119", Name: "system extension", About: "a system extension image was measured into PCR 13 and is not expected there", Device: func(s *Scenario) {
			s.Expected[0].Values.PCRs = append(s.Expected[0].Values.PCRs, registerOf(13))
			more(13, eventlog.TypeIPL, digest.Of([]byte("sysext")), UTF16("debug.sysext"))(s)
		}, Reasons: mismatch},
		{ID: "N132", Name: "older release", About: "the device boots a release that it had left", Device: func(s *Scenario) { s.Boot(Older) }, Change: func(in *attestation.Input) {
			in.Superseded = []attestation.Expectation{{Release: Older, Values: Release(Older)}}
		}, Reasons: only(reason.FirmwareRolledBack)},
		{ID: "N133", Name: "release before its offer", About: "the device boots a release that nobody offered it", Device: func(s *Scenario) { s.Boot(Next) }, Reasons: mismatch},
		{ID: "N103", Name: "second program", About: "a boot kit ran after the image, and was measured", Device: more(4, eventlog.TypeEFIApplication, digest.Of([]byte("bootkit")), imageLoad(bootFile)), Reasons: mismatch},
		{ID: "N135", Name: "other platform", About: "the right release on other firmware", Device: func(s *Scenario) { s.Boot(Current, Firmware("2.0")) }, Reasons: mismatch},
		{ID: "N117", Name: "Secure Boot off", About: "the policy asks for Secure Boot and it is off", Device: func(s *Scenario) { s.Policy.SecureBoot = true }, Reasons: only(reason.SecureBootOff)},
		{ID: "N138", Name: "withdrawn program", About: "the device booted a program that was withdrawn", Device: func(s *Scenario) {
			s.Policy.RevokedBoot = []digest.SHA256{s.Expected[0].Values.PCRs[0].Events[2].Digest}
		}, Reasons: only(reason.ComponentRevoked)},
		{ID: "N139", Name: "policy tightened", About: "Evidence that was affirmed, judged again after its program was withdrawn", Change: func(in *attestation.Input) {
			in.Policy.RevokedBoot = []digest.SHA256{in.Expected[0].Values.PCRs[0].Events[3].Digest}
		}, Reasons: only(reason.ComponentRevoked)},
		{ID: "N139", Name: "everything at once", About: "other firmware, another program that was withdrawn, Secure Boot off", Device: func(s *Scenario) {
			s.Boot("product/evil", Firmware("evil"))
			s.Policy.SecureBoot = true
			s.Policy.RevokedBoot = []digest.SHA256{Release("product/evil").PCRs[0].Events[2].Digest}
		}, Reasons: only(reason.SecureBootOff, reason.ComponentRevoked, reason.PCRMismatch), Note: "every failing check is told, not only the first"},
	}
	for _, row := range []struct {
		name, kind          string
		list, header, entry uint32
		body                int
	}{
		{"list of 27 bytes", "", 27, 0, 16, 0}, {"list of nothing", "", 0, 0, 0, 0}, {"entry of 15 bytes", "", 43, 0, 15, 15},
		{"entry of 2^32-1 bytes", "", 44, 0, 0xFFFFFFFF, 16}, {"list of 2^32-1 bytes", "", 0xFFFFFFFF, 0, 16, 16}, {"header of a vendor", "", 76, 32, 16, 48},
		{"list of digests of 15 bytes", hashList, 43, 0, 15, 15}, {"list of digests of 2^32-1 bytes", hashList, 44, 0, 0xFFFFFFFF, 16},
	} {
		db := signatureLists(row.kind, row.list, row.header, row.entry, row.body)
		cases = append(cases, Case{ID: "N13", Name: row.name, About: "the signature database that the firmware measured has a " + row.name,
			Device: func(s *Scenario) { s.Boot(Current, withKeys(map[string][]byte{"db": db})) }, Reasons: only(reason.EventlogMismatch)})
	}
	return staged(StageState, cases)
}

// affirmedCases look odd and are not wrong.
func affirmedCases() []Case {
	return staged(StageAffirmed, []Case{
		{ID: "P1", Name: "plain", About: "a device that booted what is expected"},
		{ID: "P1", Name: "Secure Boot", About: "the same with Secure Boot, which the policy asks for", Device: func(s *Scenario) {
			*s = *NewScenario("device", Current, SecureBootOn())
			s.Policy.SecureBoot = true
		}},
		{ID: "P2", Name: "second quote of one boot", About: "a quote a second after the last accepted one", Device: func(s *Scenario) { s.Accept(); s.Tick() }},
		{ID: "P2", Name: "after an update", About: "the offered release, after a reset", Device: func(s *Scenario) {
			s.Expected = append(s.Expected, attestation.Expectation{Release: Next, Values: Release(Next)})
			s.Accept()
			s.Boot(Next)
		}},
		{ID: "P2", Name: "recovery", About: "a recovery release", Device: func(s *Scenario) {
			s.Expected = append(s.Expected, attestation.Expectation{Release: "product/recovery", Recovery: true, Values: Release("product/recovery")})
			s.Boot("product/recovery")
		}},
		{ID: "N70", Name: "unsafe clock after a reset", About: "the TPM says that its clock may have gone back, on a challenge and after a reset", Device: func(s *Scenario) {
			s.Accept()
			s.Boot(Current)
			s.Clock.Safe = false
		}, Note: "an unorderly shutdown; the reset counter cannot go back, so nothing is replayed"},
		{ID: "N88", Name: "SHA-1 beside it lies", About: "the log's SHA-1 digests belong to nothing", Change: rawLog(withSHA1), Note: "SHA-1 is never read: not to accept and not to refuse"},
		{ID: "N105", Name: "order across PCRs", About: "events of different registers in another order", Device: func(s *Scenario) { s.Log = movedToEnd(s.Log, 11) },
			Note: "only the order within a register is evidence"},
		{ID: "N109", Name: "file name swapped", About: "the log names another file for the program that was started", Device: lying(func(e eventlog.Event) []eventlog.Event {
			if e.Type == eventlog.TypeEFIApplication {
				e.Data = bytes.Replace(e.Data, UTF16("BOOTX64"), UTF16("GRUBX64"), 1)
			}
			return []eventlog.Event{e}
		}), Note: "the digest is that of the program, and the name is nobody's word: no verdict looks at it"},
		{ID: "N109", Name: "withdrawn digest that was not quoted", About: "the log lists a withdrawn program in a register that was not quoted", Device: func(s *Scenario) {
			bad := digest.Of([]byte("bad"))
			s.Log.Add(14, eventlog.TypeIPL, bad, nil)
			s.Policy.RevokedBoot = []digest.SHA256{bad}
		}, Note: "what no quote vouches for proves nothing, for or against"},
		{ID: "N113", Name: "locality 0", About: "the log tells the usual startup locality", Change: rawLog(func(good []byte) []byte {
			start := NewLog().len()
			note := rawEvent(0, eventlog.TypeNoAction, 1, sha256Value(digest.SHA256{}), 17, []byte("StartupLocality\x00\x00"))
			return append(append(append([]byte{}, good[:start]...), note...), good[start:]...)
		})},
		{ID: "N113", Name: "locality 3", About: "a TPM that was started at locality 3, as its firmware says", Device: func(s *Scenario) {
			l := NewLog()
			l.Add(0, eventlog.TypeNoAction, digest.SHA256{}, []byte("StartupLocality\x00\x03"))
			for _, e := range parsedLog(s.Log).Events[1:] {
				l.Add(e.PCR, e.Type, e.Digest, e.Data)
			}
			*s = *s.rebased(l)
		}},
	})
}

// rebased is s with another log, on a platform whose baseline was learned from that log.
func (s *Scenario) rebased(l *LogBuilder) *Scenario {
	out := *s
	out.Log, out.Registers = l, l.PCRs()
	baseline := learned(out.Registers)
	out.Baseline = &baseline
	return &out
}

// withSHA1 adds a SHA-1 bank to a log, with digests of nothing.
func withSHA1(good []byte) []byte {
	header := append([]byte{}, NewLog().Bytes()...)
	vendor := header[len(header)-1:]
	table := append(append([]byte{}, header[56:len(header)-1]...), 4, 0, 20, 0)
	table[0] = 2
	out := append(append(append([]byte{}, header[:56]...), table...), vendor...)
	binary.LittleEndian.PutUint32(out[28:], uint32(len(out)-32))
	log, err := eventlog.Parse(good)
	must(err)
	for _, e := range log.Events[1:] {
		digests := append(append([]byte{4, 0}, bytes.Repeat([]byte{0xaa}, 20)...), sha256Value(e.Digest)...)
		out = append(out, rawEvent(uint32(e.PCR), e.Type, 2, digests, uint32(len(e.Data)), e.Data)...)
	}
	return out
}
