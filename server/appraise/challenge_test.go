package appraise_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/appraise"
)

var at = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func challenges(key byte) *appraise.Challenges {
	return appraise.NewChallenges(bytes.Repeat([]byte{key}, 32), 5*time.Minute)
}

func TestChallengeIsForOneDeviceAndPurposeAndExpires(t *testing.T) {
	t.Parallel()
	c := challenges(1)
	token := c.Mint(attestation.PurposePoll, "d", at)
	tests := map[string]struct {
		by              *appraise.Challenges
		purpose, device string
		now             time.Time
		want            reason.Reason
	}{
		"at once":                {c, attestation.PurposePoll, "d", at, ""},
		"at its last moment":     {c, attestation.PurposePoll, "d", at.Add(5 * time.Minute), ""},
		"a replica's clock":      {c, attestation.PurposePoll, "d", at.Add(-5 * time.Second), ""},
		"late":                   {c, attestation.PurposePoll, "d", at.Add(5*time.Minute + 1), reason.NonceExpired},
		"from the future":        {c, attestation.PurposePoll, "d", at.Add(-5*time.Second - 1), reason.NonceExpired},
		"other purpose":          {c, attestation.PurposeEnroll, "d", at, reason.NonceUnknown},
		"other device":           {c, attestation.PurposePoll, "e", at, reason.NonceUnknown},
		"a border moved":         {c, attestation.PurposePoll + "d", "", at, reason.NonceUnknown},
		"another server's key":   {challenges(2), attestation.PurposePoll, "d", at, reason.NonceUnknown},
		"other device and later": {c, attestation.PurposePoll, "e", at.Add(time.Hour), reason.NonceUnknown},
	}
	for name, test := range tests {
		issued, why := test.by.Check(token, test.purpose, test.device, test.now)
		if why != test.want || why == "" && !issued.Equal(at) {
			t.Errorf("%s: got %s, %q, want %q", name, issued, why, test.want)
		}
	}
}

func TestRefusesTamperedChallenge(t *testing.T) {
	t.Parallel()
	c := challenges(1)
	token := c.Mint(attestation.PurposePoll, "d", at)
	for i := range token {
		bad := bytes.Clone(token)
		bad[i] ^= 1
		if _, why := c.Check(bad, attestation.PurposePoll, "d", at); why != reason.NonceUnknown {
			t.Errorf("byte %d changed: got %q", i, why)
		}
	}
	for _, bad := range [][]byte{nil, {}, token[:len(token)-1], append(bytes.Clone(token), 0), make([]byte, len(token))} {
		if _, why := c.Check(bad, attestation.PurposePoll, "d", at); why != reason.NonceUnknown {
			t.Errorf("%d bytes: got %q", len(bad), why)
		}
	}
}

// N60: a constant nonce would make a captured quote good for ever.
func TestChallengesDiffer(t *testing.T) {
	t.Parallel()
	c := challenges(1)
	seen := map[string]bool{}
	for range 1000 {
		token := c.Mint(attestation.PurposePoll, "d", at)
		if random := string(token[9:25]); seen[random] {
			t.Fatalf("the same random bytes twice: %x", random)
		} else {
			seen[random] = true
		}
	}
}

func TestRefusesShortChallengeKey(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("a key of 16 bytes was taken")
		}
	}()
	appraise.NewChallenges(make([]byte, 16), time.Minute)
}

func FuzzChallengeCheck(f *testing.F) {
	c := challenges(1)
	good := c.Mint(attestation.PurposePoll, "d", at)
	f.Add(good)
	f.Add(good[:30])
	f.Fuzz(func(t *testing.T, token []byte) {
		if _, why := c.Check(token, attestation.PurposePoll, "d", at); why != "" {
			return // as it should be, but for those that the key made
		}
		if _, why := c.Check(token, attestation.PurposePoll, "e", at); why == "" {
			t.Errorf("took %x for another device", token)
		}
		for i := range 8 * len(token) {
			edited := bytes.Clone(token)
			edited[i/8] ^= 1 << (i % 8)
			if _, why := c.Check(edited, attestation.PurposePoll, "d", at); why == "" {
				t.Errorf("took %x with bit %d flipped", token, i)
			}
		}
	})
}
