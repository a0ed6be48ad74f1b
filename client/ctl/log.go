package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/mirror"
	"github.com/cordon-ota/cordon/client/wire"
)

// errNoLogPolicy is returned when the offline role says nothing about the log.
var errNoLogPolicy = errors.New("the offline targets name no log")

// errRewritten is returned when the log does not hold what it must.
var errRewritten = errors.New("the log is not whole")

func (a *app) logCommand() *cobra.Command {
	return group("log", "Check the audit log itself: all leaves, all tiles, and what was seen of it before", a.logCheck())
}

func (a *app) logCheck() *cobra.Command {
	c := &cobra.Command{Use: "check", Short: "Read the whole log, compute it again, and hold it against older checkpoints", Args: cobra.NoArgs}
	trustPath := c.Flags().String("trust", "", "trust bundle `FILE`, from elsewhere than the server")
	from := c.Flags().StringArray("from", nil, "`FILE` with a checkpoint that you kept or that a witness gave you; may be repeated")
	dir := c.Flags().String("mirror", "", "`DIR` for a copy of the log; the next run compares leaf by leaf with it")
	out := c.Flags().String("out", "", "`FILE` for the checkpoint, to be kept; replaced only by one that continues it")
	c.RunE = a.run("check the log", func(ctx context.Context, _ []string) error {
		trust, err := readTrust(*trustPath)
		if err != nil {
			return err
		}
		o := mirror.Options{Dir: *dir, Progress: noteLeaves}
		if o.Old, err = oldCheckpoints(*from, *out); err != nil {
			return err
		}
		client, err := a.server.client()
		if err != nil {
			return err
		}
		var targets int64
		if o.Policy, targets, err = offlineLogPolicy(ctx, client, trust); err != nil {
			return err
		}
		result, err := mirror.Check(ctx, logSource{client}, o)
		if err != nil {
			return err
		}
		if err := a.print(result, func(w io.Writer) error { return showLogCheck(w, result, o.Policy, targets) }); err != nil {
			return err
		}
		if !result.Whole() {
			return errRewritten
		}
		if *out != "" {
			if err := writeNew(*out, result.Raw, 0o644, true); err != nil {
				return fmt.Errorf("cannot keep the checkpoint: %w", err)
			}
		}
		if result.Unwitnessed != "" {
			return errUndecided
		}
		return nil
	})
	return c
}

// manyLeaves is how many leaves are read from one line about it to the next.
const manyLeaves = 1 << 17

func noteLeaves(done, size uint64) {
	if done%manyLeaves == 0 && done < size {
		note("%d of %d leaves read", done, size)
	}
}

// oldCheckpoints reads what the auditor kept. The file that is to be replaced counts too, if it is there.
func oldCheckpoints(from []string, out string) ([]mirror.Old, error) {
	var olds []mirror.Old
	for _, path := range from {
		raw, err := readFile(path, tlog.MaxCheckpointBytes)
		if err != nil {
			return nil, fmt.Errorf("cannot read checkpoint: %w", err)
		}
		olds = append(olds, mirror.Old{Name: path, Raw: raw})
	}
	if out == "" {
		return olds, nil
	}
	raw, err := readFile(out, tlog.MaxCheckpointBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return olds, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read checkpoint: %w", err)
	}
	return append(olds, mirror.Old{Name: out, Raw: raw}), nil
}

// logSource is the log of a server.
type logSource struct{ client *api.Client }

func (s logSource) Checkpoint(ctx context.Context) ([]byte, error) {
	return s.client.LogCheckpoint(ctx)
}

func (s logSource) File(ctx context.Context, path string) ([]byte, error) {
	b, err := s.client.LogFile(ctx, path)
	if problem, ok := errors.AsType[*api.Error](err); ok && problem.Status == http.StatusNotFound {
		return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return b, err
}

// offlineLogPolicy reads the log policy that the offline role signed, from the trust bundle's root on, and the version of
// the targets that name it.
func offlineLogPolicy(ctx context.Context, client *api.Client, trust wire.Trust) (tlog.Policy, int64, error) {
	image, err := currentImage(ctx, client, trust)
	if err != nil {
		return tlog.Policy{}, 0, err
	}
	target, role, ok := image.Target(tlog.PolicyPath)
	if !ok || role != tufrepo.RoleTargets {
		return tlog.Policy{}, 0, errNoLogPolicy
	}
	doc, err := client.RepoFile(ctx, tufrepo.TargetFileName(tlog.PolicyPath, target.SHA256))
	if err != nil {
		return tlog.Policy{}, 0, err
	}
	if digest.Of(doc) != target.SHA256 {
		return tlog.Policy{}, 0, fmt.Errorf("%w: %s is not the file that the offline role signed", tufrepo.ErrSignature, tlog.PolicyPath)
	}
	p, err := tlog.DecodePolicy(doc)
	return p, image.State().Targets, err
}

// currentImage follows the Image repository up to the offline targets.
func currentImage(ctx context.Context, client *api.Client, trust wire.Trust) (*tufrepo.Image, error) {
	image, err := tufrepo.NewImage(trust.ImageRoot, time.Now())
	if err != nil {
		return nil, fmt.Errorf("trust bundle: %w", err)
	}
	status, err := client.Status(ctx)
	if err != nil {
		return nil, err
	}
	for v := image.State().Root + 1; v <= status.ImageRoot; v++ {
		if err := accept(ctx, client, tufrepo.FileName(v, tufrepo.RoleRoot), func(doc []byte) error { return image.UpdateRoot(doc) }); err != nil {
			return nil, err
		}
	}
	if err := accept(ctx, client, tufrepo.TimestampName, image.Timestamp); err != nil {
		return nil, err
	}
	for {
		next, err := image.Next("")
		if err != nil || next == nil {
			return image, err
		}
		if err := accept(ctx, client, next.Name, func(doc []byte) error { return image.Accept(next, doc) }); err != nil {
			return nil, err
		}
	}
}

// accept reads a file of the Image repository and hands it to its verifier.
func accept(ctx context.Context, client *api.Client, name string, take func([]byte) error) error {
	doc, err := client.RepoFile(ctx, name)
	if err != nil {
		return err
	}
	if err := take(doc); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func showLogCheck(w io.Writer, r mirror.Result, p tlog.Policy, targets int64) error {
	fmt.Fprintf(w, "log %s, %d leaves, root %s\n", plain(p.Origin), r.Size, r.Root)
	fmt.Fprintf(w, "policy of offline targets %d: %d of %d witnesses; cosigned by: %s\n", targets, p.Quorum, len(p.Witnesses), cmp.Or(strings.Join(r.Witnesses, ", "), "nobody"))
	list(w, "of the same history:", r.Extends)
	var lines []string
	for _, f := range r.Findings {
		lines = append(lines, f.Text)
	}
	list(w, "findings:", lines)
	if r.Unwitnessed != "" {
		list(w, "could not be checked:", []string{r.Unwitnessed})
	}
	if r.Whole() {
		fmt.Fprintln(w, "every leaf and every tile is what the checkpoint commits to")
	}
	return nil
}
