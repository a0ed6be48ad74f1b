package appraise

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// There is a Standard for each product, platform, hardware and set of releases that devices may be in. Beyond these bounds
// all are made again.
const (
	maxStandards     = 1024
	maxStandardBytes = 32 << 20 // of all
)

// standards keeps what devices are held to from poll to poll, so that no poll hashes Reference Values. Nothing in it is
// believed: a Standard that is not of exactly what the catalog of the poll says is made again.
type standards struct {
	mu   sync.Mutex
	made map[string]*attestation.Standard
	size int // of all
}

// of finds the Standard of in, which name stands for, or makes it.
func (s *standards) of(name string, in attestation.Input) (*attestation.Standard, error) {
	s.mu.Lock()
	known := s.made[name]
	s.mu.Unlock()
	if known.Of(in) {
		return known, nil
	}
	made, err := attestation.NewStandard(in)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if before := s.made[name]; before != nil {
		s.size -= before.Size()
	}
	if s.made == nil || len(s.made) >= maxStandards || s.size+made.Size() > maxStandardBytes {
		s.made, s.size = map[string]*attestation.Standard{}, 0
	}
	s.made[name] = made
	s.size += made.Size()
	return made, nil
}

// ask asks the verifier about Evidence. A state that was affirmed before, with a log that is kept, is known: neither is
// the log read then nor what it says judged. A log that comes with the Evidence may never be kept, so what it shows is
// not remembered: nothing is known whose log nobody could look at later.
func (t *turn) ask(ctx context.Context, in attestation.Input) (attestation.Input, attestation.Verdict, error) {
	if len(t.sentLog) > 0 || t.s.set.Cache == nil {
		return t.askAnew(ctx, in)
	}
	standard, err := t.s.standards.of(t.standardName(in), in)
	if err != nil {
		return in, attestation.Verdict{}, err
	}
	verdict, err := t.s.set.Cache.Appraise(standard, in)
	if err != nil || !slices.Contains(verdict.Reasons(), reason.EventlogMissing) {
		return in, verdict, err
	}
	if in.Log, err = t.eventLog(ctx, in.Evidence); err != nil || in.Log == nil {
		return in, verdict, err
	}
	verdict, err = t.s.set.Cache.Appraise(standard, in)
	return in, verdict, err
}

// askAnew finds the log and asks about everything.
func (t *turn) askAnew(ctx context.Context, in attestation.Input) (attestation.Input, attestation.Verdict, error) {
	var err error
	if in.Log == nil {
		if in.Log, err = t.eventLog(ctx, in.Evidence); err != nil {
			return in, attestation.Verdict{}, err
		}
	}
	verdict, err := attestation.Appraise(in)
	return in, verdict, err
}

func (t *turn) standardName(in attestation.Input) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n%s", t.product.Name, t.d.HardwareID, t.d.Profile)
	for i := range in.Expected {
		b.WriteByte('\n')
		b.WriteString(in.Expected[i].Release)
	}
	return b.String()
}
