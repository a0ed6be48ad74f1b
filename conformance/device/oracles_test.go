package device_test

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/device"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// quotesAccepted asks tpm2-tools about everything that the server affirmed of a device: tpm2_checkquote about each quote, as the
// server keeps it for auditors, and tpm2_eventlog about each log.
func quotesAccepted(t *testing.T, n *narrator, f *device.Fleet, id string) {
	t.Helper()
	must(t, parts.Require(t.Context(), t.Output(), "tpm2-tools"))
	r := f.Report()
	quotes, logs := 0, map[digest.SHA256]bool{}
	for _, a := range r.Appraisals {
		if a.Device != id {
			continue
		}
		if said, err := checkQuote(t, a, attestation.Transcript(a.Input.Binding)); err != nil {
			t.Errorf("tpm2_checkquote refuses quote %d: %v\n%s", a.Number, err, said)
		}
		quotes++
		if quotes == 1 {
			if _, err := checkQuote(t, a, digest.Of([]byte("another nonce"))); err == nil {
				t.Error("tpm2_checkquote accepts the quote for another nonce")
			}
		}
		logs[a.Input.Evidence.LogDigest] = true
	}
	for sum := range logs {
		eventsAgree(t, r.Logs[sum.String()])
	}
	if quotes == 0 || len(logs) == 0 {
		t.Errorf("%d quotes and %d logs to check", quotes, len(logs))
	}
	n.saw("tpm2_checkquote accepts all %d quotes that the server keeps, and refuses another nonce; tpm2_eventlog reads %d logs as our parser does", quotes, len(logs))
}

// checkQuote runs tpm2_checkquote over one appraisal.
func checkQuote(t *testing.T, a api.Appraisal, nonce digest.SHA256) (string, error) {
	t.Helper()
	public, err := identity.ParsePublic(a.Input.AK.Public)
	must(t, err)
	der, err := x509.MarshalPKIXPublicKey(public.Key)
	must(t, err)
	dir := t.TempDir()
	for name, content := range map[string][]byte{
		"ak.pem": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "quote": a.Input.Evidence.Quote, "signature": a.Input.Evidence.Signature,
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	cmd := exec.CommandContext(t.Context(), "tpm2_checkquote", "-u", "ak.pem", "-m", "quote", "-s", "signature", "-g", "sha256", "-q", hex.EncodeToString(nonce[:]))
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

var (
	yamlEvent  = regexp.MustCompile(`^- EventNum: (\d+)$`)
	yamlFields = []*regexp.Regexp{
		regexp.MustCompile(`^  PCRIndex: (\d+)$`), regexp.MustCompile(`^  EventType: (\w+)$`), regexp.MustCompile(`^    Digest: "([0-9a-f]{64})"$`),
	}
)

// eventsAgree compares what tpm2_eventlog and our parser make of a log, event by event.
func eventsAgree(t *testing.T, log []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "log")
	must(t, os.WriteFile(file, log, 0o600))
	out, err := exec.CommandContext(t.Context(), "tpm2_eventlog", file).Output()
	must(t, err)
	var want, got []string
	for line := range strings.Lines(string(out)) {
		line = strings.TrimRight(line, "\n")
		if m := yamlEvent.FindStringSubmatch(line); m != nil {
			want = append(want, m[1])
		}
		for _, re := range yamlFields {
			if m := re.FindStringSubmatch(line); m != nil && len(want) > 0 {
				want[len(want)-1] += " " + m[1]
			}
		}
	}
	parsed, err := eventlog.Parse(log)
	must(t, err)
	for _, e := range parsed.Events {
		line := fmt.Sprintf("%d %d %s", e.Index, e.PCR, e.TypeName())
		if e.Index > 0 {
			line += " " + e.Digest.String()
		}
		got = append(got, line)
	}
	if diff := cmp.Diff(want, got); diff != "" || len(got) == 0 {
		t.Errorf("%d events (-tpm2_eventlog +ours):\n%s", len(got), diff)
	}
}
