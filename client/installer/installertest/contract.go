package installertest

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/installer"
)

// Machine is a device that a contract test installs on. Its boot loader tries what was activated, and goes back to the
// image before when that does not start or nobody has committed it.
type Machine interface {
	// Open returns the installer as a new process has it.
	Open() (installer.Installer, error)
	// Image makes what a release of this machine carries. Larger numbers are newer; a broken one does not start.
	Image(n int, broken bool) []byte
	// Boot restarts the machine.
	Boot()
}

// Contract is what every installer keeps.
func Contract(t *testing.T, newMachine func(t *testing.T) Machine) {
	for name, test := range map[string]func(*contract){
		"a trial and its commit and the next one":     (*contract).updates,
		"an image that does not start":                (*contract).fallsBack,
		"a trial that nobody commits":                 (*contract).forgets,
		"taken back before the boot":                  (*contract).takesBack,
		"taken back during the trial":                 (*contract).endsTrial,
		"a download that was interrupted":             (*contract).resumes,
		"every step twice":                            (*contract).repeats,
		"a longer image before":                       (*contract).cuts,
		"many boots of what is permanent":             (*contract).stays,
		"another release than the one that was begun": (*contract).changesItsMind,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(&contract{t: t, m: newMachine(t)})
		})
	}
}

type contract struct {
	t *testing.T
	m Machine
}

func (c *contract) open() installer.Installer {
	c.t.Helper()
	in, err := c.m.Open()
	if err != nil {
		c.t.Fatalf("Open: %v", err)
	}
	return in
}

// describe is what a release says about an image.
func describe(b []byte) installer.Image {
	return installer.Image{Component: "system", SHA256: digest.Of(b), Length: int64(len(b))}
}

func (c *contract) must(what string, err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatalf("%s: %v", what, err)
	}
}

// fill writes b[from:] to the slot and reads all of it back.
func (c *contract) fill(b []byte, from int) {
	c.t.Helper()
	s, err := c.open().Prepare(c.t.Context(), describe(b))
	c.must("Prepare", err)
	_, err = s.WriteAt(b[from:], int64(from))
	have := make([]byte, len(b))
	if err == nil {
		_, err = s.ReadAt(have, 0)
	}
	c.must("write", errors.Join(err, s.Sync(), s.Close()))
	if !bytes.Equal(have, b) {
		c.t.Fatal("the slot does not read back what was written")
	}
}

// install does what the client does: it reads the slot back by a second Prepare before it activates.
func (c *contract) install(b []byte) {
	c.t.Helper()
	c.fill(b, 0)
	in := c.open()
	s, err := in.Prepare(c.t.Context(), describe(b))
	c.must("Prepare", err)
	c.must("Close", s.Close())
	c.must("Activate", in.Activate(c.t.Context(), describe(b)))
}

func (c *contract) running() installer.Boot {
	c.t.Helper()
	b, err := c.open().Running(c.t.Context())
	c.must("Running", err)
	return b
}

// wantRuns checks that b runs, on trial or not.
func (c *contract) wantRuns(b []byte, trial bool) {
	c.t.Helper()
	got := c.running()
	if got.Trial != trial || got.SHA256 != digest.Of(b) || got.Length != int64(len(b)) {
		c.t.Errorf("Running = %+v, want %d bytes %s, trial %v", got, len(b), digest.Of(b), trial)
	}
}

func (c *contract) wantStill(before installer.Boot) {
	c.t.Helper()
	if got := c.running(); got != before {
		c.t.Errorf("Running = %+v, want %+v as before", got, before)
	}
}

func (c *contract) updates() {
	before := c.running()
	if before.Trial || before.Slot == "" {
		c.t.Errorf("Running = %+v on a machine that never was updated", before)
	}
	for n := 1; n <= 3; n++ {
		next := c.m.Image(n, false)
		c.install(next)
		c.wantStill(before)
		c.m.Boot()
		c.wantRuns(next, true)
		if _, err := c.open().Prepare(c.t.Context(), describe(c.m.Image(9, false))); !errors.Is(err, installer.ErrBusy) {
			c.t.Errorf("Prepare during a trial: %v, want ErrBusy", err)
		}
		c.must("Commit", c.open().Commit(c.t.Context()))
		c.wantRuns(next, false)
		c.m.Boot()
		c.wantRuns(next, false)
		before = c.running()
	}
}

func (c *contract) fallsBack() {
	before := c.running()
	for n := 1; n <= 2; n++ {
		c.install(c.m.Image(n, true))
		c.m.Boot()
		c.wantStill(before)
		c.must("Rollback", c.open().Rollback(c.t.Context()))
		c.must("Commit of what is permanent", c.open().Commit(c.t.Context()))
	}
	good := c.m.Image(3, false)
	c.install(good)
	c.m.Boot()
	c.wantRuns(good, true)
	c.must("Commit", c.open().Commit(c.t.Context()))
	c.m.Boot()
	c.wantRuns(good, false)
}

func (c *contract) forgets() {
	before := c.running()
	next := c.m.Image(1, false)
	c.install(next)
	c.m.Boot()
	c.wantRuns(next, true)
	for range 3 { // as many tries as any boot loader has
		c.m.Boot()
	}
	c.wantStill(before)
}

func (c *contract) takesBack() {
	before := c.running()
	c.install(c.m.Image(1, false))
	c.must("Rollback", c.open().Rollback(c.t.Context()))
	c.m.Boot()
	c.wantStill(before)
	c.m.Boot()
	c.wantStill(before)
}

func (c *contract) endsTrial() {
	before := c.running()
	c.install(c.m.Image(1, false))
	c.m.Boot()
	c.must("Rollback", c.open().Rollback(c.t.Context()))
	c.m.Boot()
	c.wantStill(before)
	c.m.Boot()
	c.wantStill(before)
}

func (c *contract) resumes() {
	next := c.m.Image(1, false)
	s, err := c.open().Prepare(c.t.Context(), describe(next))
	c.must("Prepare", err)
	half := len(next) / 2
	_, err = s.WriteAt(next[:half], 0)
	c.must("write", errors.Join(err, s.Sync(), s.Close()))
	c.m.Boot()
	c.fill(next, half)
	c.must("Activate", c.open().Activate(c.t.Context(), describe(next)))
	c.m.Boot()
	c.wantRuns(next, true)
}

func (c *contract) repeats() {
	next := c.m.Image(1, false)
	c.install(next)
	c.must("Activate again", c.open().Activate(c.t.Context(), describe(next)))
	c.install(next) // the process died before it noted that it was done
	c.m.Boot()
	c.wantRuns(next, true)
	c.must("Commit", c.open().Commit(c.t.Context()))
	c.must("Commit again", c.open().Commit(c.t.Context()))
	c.must("Rollback after the commit", c.open().Rollback(c.t.Context()))
	c.m.Boot()
	c.wantRuns(next, false)
}

func (c *contract) cuts() {
	next := c.m.Image(1, false)
	s, err := c.open().Prepare(c.t.Context(), describe(next))
	c.must("Prepare", err)
	_, err = s.WriteAt(bytes.Repeat([]byte("x"), 3*len(next)), 0)
	c.must("write", errors.Join(err, s.Sync(), s.Close()))
	c.install(next)
	c.m.Boot()
	c.wantRuns(next, true)
}

func (c *contract) changesItsMind() {
	c.install(c.m.Image(1, false))
	next := c.m.Image(2, false)
	c.install(next)
	c.m.Boot()
	c.wantRuns(next, true)
	c.must("Commit", c.open().Commit(c.t.Context()))
	c.m.Boot()
	c.wantRuns(next, false)
}

func (c *contract) stays() {
	before := c.running()
	c.boots(8) // more than any boot loader has tries
	c.wantStill(before)
	next := c.m.Image(1, false)
	c.install(next)
	c.m.Boot()
	c.must("Commit", c.open().Commit(c.t.Context()))
	c.boots(8)
	c.wantRuns(next, false)
}

// boots restarts the machine many times, and says each time what the client says when it finds no trial.
func (c *contract) boots(times int) {
	c.t.Helper()
	for range times {
		c.m.Boot()
		if keeper, ok := c.open().(installer.Keeper); ok {
			c.must("Keep", keeper.Keep(c.t.Context()))
		}
	}
}
