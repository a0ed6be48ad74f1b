package appraise

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cordon-ota/cordon/attestation/reason"
)

// Challenges mints and checks stateless challenges: no row in the database, single use by TPM clock continuity.
//
// A challenge is version(1) || issue time in Unix microseconds(8) || 16 random bytes || HMAC-SHA-256(32). The MAC covers
// the purpose and the device too, so a challenge is good for one device and one purpose only.
type Challenges struct {
	key    []byte
	maxAge time.Duration
}

const (
	challengeVersion = 1
	challengeKey     = 32
	challengeHead    = 1 + 8 + 16
	challengeSize    = challengeHead + sha256.Size
	challengeDomain  = "cordon/challenge/v1"
	// clockSkew is how far in the future an issue time may lie: replicas' clocks differ a little.
	clockSkew = 5 * time.Second
)

// NewChallenges takes a key of at least 32 bytes and the age at which a challenge expires. It panics on a shorter key:
// with one, anybody could mint challenges.
func NewChallenges(key []byte, maxAge time.Duration) *Challenges {
	if len(key) < challengeKey {
		panic(fmt.Sprintf("appraise: challenge key of %d bytes, want at least %d", len(key), challengeKey))
	}
	return &Challenges{key: key, maxAge: maxAge}
}

// Mint makes a new challenge.
func (c *Challenges) Mint(purpose, device string, now time.Time) []byte {
	token := make([]byte, challengeHead, challengeSize)
	token[0] = challengeVersion
	binary.BigEndian.PutUint64(token[1:9], uint64(now.UnixMicro()))
	_, _ = rand.Read(token[9:challengeHead]) // never fails: crypto/rand documents that it ends the program instead
	return append(token, c.mac(token, purpose, device)...)
}

// Check returns when the challenge was issued, or why it does not count.
func (c *Challenges) Check(token []byte, purpose, device string, now time.Time) (time.Time, reason.Reason) {
	if len(token) != challengeSize || token[0] != challengeVersion {
		return time.Time{}, reason.NonceUnknown
	}
	if !hmac.Equal(token[challengeHead:], c.mac(token[:challengeHead], purpose, device)) {
		return time.Time{}, reason.NonceUnknown
	}
	issued := time.UnixMicro(int64(binary.BigEndian.Uint64(token[1:9])))
	if now.Sub(issued) > c.maxAge || issued.Sub(now) > clockSkew {
		return time.Time{}, reason.NonceExpired
	}
	return issued, ""
}

func (c *Challenges) mac(head []byte, purpose, device string) []byte {
	m := hmac.New(sha256.New, c.key)
	for _, part := range []string{challengeDomain, purpose, device, string(head)} {
		var length [4]byte
		binary.BigEndian.PutUint32(length[:], uint32(len(part)))
		m.Write(length[:])
		m.Write([]byte(part))
	}
	return m.Sum(nil)
}
