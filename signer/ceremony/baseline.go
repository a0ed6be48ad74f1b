package ceremony

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// MaxPCRBytes bounds a file of PCR values.
const MaxPCRBytes = 8 << 20

// ErrPCRs is returned for a file that does not hold PCR values of the SHA-256 bank.
var ErrPCRs = errors.New("file holds no sha256 PCR values")

// pcrLine matches "SHA256 PCR07 <hex>", "7: <hex>", "7 <hex>" and the lines of tpm2_pcrread, "  7 : 0x<HEX>".
var pcrLine = regexp.MustCompile(`^\s*(?:(?i:sha256)\s+)?(?i:PCR)?\s*0*(\d{1,2})\s*[:= ]\s*(?:0x)?([0-9a-fA-F]{64})\s*$`)

var bankLine = regexp.MustCompile(`^\s*(?i:(sha\d+(?:_\d+)?|sm3_256))\s*:\s*$`)

// ParsePCRs reads the text of PCR values of the SHA-256 bank, one per line; other banks of a tpm2_pcrread listing are
// passed over. ErrPCRs: no values, a line that is neither, or a PCR twice.
func ParsePCRs(b []byte) (map[int]digest.SHA256, error) {
	if len(b) > MaxPCRBytes {
		return nil, fmt.Errorf("%w: larger than %d bytes", ErrPCRs, MaxPCRBytes)
	}
	out := map[int]digest.SHA256{}
	bank := "sha256"
	for number, line := range strings.Split(string(b), "\n") {
		line = strings.TrimSpace(line)
		if m := bankLine.FindStringSubmatch(line); m != nil {
			bank = strings.ToLower(m[1])
			continue
		}
		if bank != "sha256" || line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		m := pcrLine.FindStringSubmatch(line)
		if m == nil {
			return nil, fmt.Errorf("%w: line %d: %.80q", ErrPCRs, number+1, line)
		}
		if err := addPCR(out, m[1], m[2]); err != nil {
			return nil, fmt.Errorf("line %d: %w", number+1, err)
		}
	}
	if len(out) == 0 {
		return nil, ErrPCRs
	}
	return out, nil
}

// ParsePCRsJSON reads what `cordonctl eventlog FILE --json` prints; members beside pcrs are not looked at.
func ParsePCRsJSON(b []byte) (map[int]digest.SHA256, error) {
	if len(b) > MaxPCRBytes {
		return nil, fmt.Errorf("%w: larger than %d bytes", ErrPCRs, MaxPCRBytes)
	}
	var doc struct {
		PCRs struct {
			SHA256 map[string]string `json:"sha256"`
		} `json:"pcrs"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPCRs, err)
	}
	out := map[int]digest.SHA256{}
	for index, value := range doc.PCRs.SHA256 {
		if err := addPCR(out, index, value); err != nil {
			return nil, err
		}
	}
	if len(out) == 0 {
		return nil, ErrPCRs
	}
	return out, nil
}

func addPCR(out map[int]digest.SHA256, index, value string) error {
	n, err := strconv.Atoi(index)
	if err != nil || n < 0 || n > 23 {
		return fmt.Errorf("%w: PCR %.20q", ErrPCRs, index)
	}
	d, err := digest.Parse(strings.ToLower(value))
	if err != nil {
		return fmt.Errorf("%w: PCR %d: %w", ErrPCRs, n, err)
	}
	if _, there := out[n]; there {
		return fmt.Errorf("%w: PCR %d is there twice", ErrPCRs, n)
	}
	out[n] = d
	return nil
}
