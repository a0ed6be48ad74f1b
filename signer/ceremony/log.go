package ceremony

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
)

// ErrNoLog is returned when the targets name no log.
var ErrNoLog = errors.New("no log policy is set")

// SetLog signs which audit log and which witnesses auditors and the server believe. It returns tlog.ErrPolicy for a policy
// that proves nothing.
func (d *Dir) SetLog(p tlog.Policy, expires time.Time) (Change, error) {
	return d.changeTargets(expires, func(_ *tufrepo.TargetsSpec, files map[string][]byte) error {
		p.Version = tlog.PolicyVersion
		doc, err := p.Encode()
		if err != nil {
			return err
		}
		files[tlog.PolicyPath] = doc
		return nil
	})
}

// Log returns the log policy as it is pending, or current; ErrNoLog if there is none.
func (d *Dir) Log() (tlog.Policy, error) {
	_, files, err := d.base()
	if err != nil {
		return tlog.Policy{}, err
	}
	b, ok := files[tlog.PolicyPath]
	if !ok {
		return tlog.Policy{}, ErrNoLog
	}
	return tlog.DecodePolicy(b)
}

// checkLog holds a file below witness/ against its readers.
func checkLog(path string, data []byte) error {
	if path != tlog.PolicyPath {
		return fmt.Errorf("no reader knows this file; the log policy is %s", tlog.PolicyPath)
	}
	_, err := tlog.DecodePolicy(data)
	return err
}

// DescribeLog says what a log policy means, one fact per line.
func DescribeLog(p tlog.Policy) []string {
	out := []string{
		"the audit log is " + plain(p.Origin),
		"log key " + plain(p.LogKey),
		fmt.Sprintf("%d of %d witnesses must have cosigned a checkpoint", p.Quorum, len(p.Witnesses)),
	}
	for _, w := range p.Witnesses {
		out = append(out, fmt.Sprintf("witness %s: key %s, at %s", plain(w.Name), plain(w.Key), plain(w.URL)))
	}
	if p.Quorum > 0 && p.Liars(p.Quorum) == 0 {
		out = append(out, "TWO HISTORIES CAN EACH HAVE A QUORUM: two groups of witnesses that do not overlap suffice, and none of them lies; take more than half")
	}
	if p.Quorum == 0 {
		out = append(out, "NOBODY BUT THE SERVER VOUCHES FOR ITS HISTORY: whoever holds the log key can rewrite it unseen")
	}
	return out
}

// warnLog says aloud what takes protection away. A thief of the server would ask for exactly these changes.
func warnLog(old, now []byte) []string {
	before, err := tlog.DecodePolicy(old)
	if err != nil {
		return nil
	}
	after, err := tlog.DecodePolicy(now)
	if err != nil {
		return []string{"THE LOG POLICY GOES AWAY: from then on no report proves that history was not rewritten"}
	}
	var out []string
	if before.Origin != after.Origin || before.LogKey != after.LogKey {
		out = append(out, "THE LOG KEY CHANGES: another log begins, and what the old one shows can be left behind; ask why, and keep its last checkpoint")
	}
	if after.Quorum < before.Quorum {
		out = append(out, fmt.Sprintf("FEWER WITNESSES HAVE TO AGREE: %d, before %d", after.Quorum, before.Quorum))
	}
	if after.Liars(after.Quorum) == 0 && before.Liars(before.Quorum) > 0 {
		out = append(out, fmt.Sprintf("HALF OF THE WITNESSES IS ENOUGH: %d of %d, before %d of %d; two groups that do not overlap can vouch for two histories",
			after.Quorum, len(after.Witnesses), before.Quorum, len(before.Witnesses)))
	}
	if added := strangers(before, after); after.Quorum > 0 && added >= after.Quorum {
		out = append(out, fmt.Sprintf("NEW WITNESSES ALONE MAKE THE QUORUM: %d of them, and %d have to agree; none of them knows the history until now", added, after.Quorum))
	}
	for _, w := range before.Witnesses {
		if !slices.ContainsFunc(after.Witnesses, func(a tlog.Witness) bool { return a.Key == w.Key }) {
			out = append(out, "A WITNESS GOES AWAY: "+plain(w.Name)+"; it knows the history until now, a new one does not")
		}
	}
	return out
}

// strangers counts the witnesses of a policy that the one before did not have.
func strangers(before, after tlog.Policy) int {
	n := 0
	for _, w := range after.Witnesses {
		if !slices.ContainsFunc(before.Witnesses, func(b tlog.Witness) bool { return b.Key == w.Key }) {
			n++
		}
	}
	return n
}
