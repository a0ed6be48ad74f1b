package crash_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/demo"
)

// valve is a second product: two people approve its releases, and no device has it.
const valve = `product = "valve"
approvals = 2
[[publisher]]
name = "ci"
key_file = "publisher.pub.pem"
`

// signValve has the holders sign the policy of valve.
func (w *world) signValve() {
	w.t.Helper()
	if err := os.WriteFile(w.s.Path("valve.toml"), []byte(valve), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.s.Sign("product", "set", "--dir", "ceremony", "--policy", "valve.toml")
	w.s.Sign("root", "sign", "--dir", "ceremony", "--key", "hanna.pem")
	w.s.Sign("root", "sign", "--dir", "ceremony", "--key", "henry.pem")
	w.s.Sign("root", "apply", "--dir", "ceremony", "--token-file", w.s.Path("alice.token"))
	w.check()
}

// release is one release of valve on its way.
type release struct {
	w       *world
	version string
	file    string
}

func (w *world) newRelease(number int) release {
	version := fmt.Sprintf("1.%d", number)
	return release{w: w, version: version, file: w.file("valve-"+version+".bin", 100_000)}
}

func (r release) name() string { return "valve/" + r.version }

func (r release) args() []string {
	return r.w.s.By("ci-builder", "publish", "--product", "valve", "--version", r.version, "--key", "publisher.pem",
		"--component", "blob="+r.file+",hw=board-z,installer=ab,measured=no")
}

// release is what the server says about a release of valve.
func (w *world) release(version string) api.Release {
	w.t.Helper()
	r, err := w.as("bob").Release(w.t.Context(), "valve", version)
	if err != nil {
		w.t.Error(err)
	}
	return r
}

// all is a publication with everything that belongs to it. Whatever becomes of it, complete comes after it.
func (r release) all() {
	r.w.s.Run("cordon-sign", r.args()...)
	for _, person := range []string{"bob", "carol"} {
		r.w.s.Run("cordonctl", r.w.s.By(person, "release", "approve", r.name())...)
	}
}

// complete is the next clean cycle: the same commands once more, and the release is published once.
func (r release) complete() {
	w := r.w
	w.t.Helper()
	if code, out, stderr := w.s.Run("cordon-sign", r.args()...); code != 0 {
		w.t.Errorf("%s: publish again: exit %d, %s%s", r.name(), code, out, stderr)
	}
	for _, person := range []string{"bob", "carol"} {
		code, out, stderr := w.s.Run("cordonctl", w.s.By(person, "release", "approve", r.name())...)
		if code != 0 && !strings.Contains(out+stderr, "same_person") && !strings.Contains(out+stderr, "conflict") {
			w.t.Errorf("%s: %s approves again: exit %d, %s%s", r.name(), person, code, out, stderr)
		}
	}
	if now := w.release(r.version); now.State != api.ReleasePublished {
		w.t.Errorf("%s is %s", r.name(), now.State)
	}
	w.check()
	w.happened(1, "release.staged", r.name())
	w.happened(2, "release.approved", r.name())
	w.happened(1, "release.published", r.name())
	if _, _, ok := w.image.Target(r.name() + "/blob"); !ok {
		w.t.Errorf("%s/blob is no target of the repository", r.name())
	}
}

// publishCrashes kills the server at every step of a publication, of a hold and of a report.
func publishCrashes(t *testing.T, book *ledger) {
	w := newWorld(t, book, demo.StageConfig{})
	w.signValve()
	number := 0
	for _, point := range []string{
		"server.upload.written", "server.blob.checked", "server.blob.renamed", "server.blob.renamed:2", "server.publish.bundle_kept",
		"server.release.staged", "server.release.approved", "server.release.approved:2", "server.publish.decided", "server.publish.committed",
		"server.name.written", "server.name.renamed", "server.name.renamed:2", "server.publish.objects",
		"server.name.written:3", "server.name.renamed:3", "server.publish.visible", "server.publish.noted",
	} {
		number++
		r := w.newRelease(number)
		if !w.serverDies(point, r.all) {
			continue
		}
		r.complete()
		book.add(row{point: point, process: "server", cycle: "publish with two approvals", after: "published once"})
	}
	w.holds(number)
	w.reports()
	w.s.Report()
}

// holds kills the server while a release is held, and while it is let go.
func (w *world) holds(number int) {
	name := fmt.Sprintf("valve/1.%d", number)
	hold := func() { w.s.Run("cordonctl", w.s.By("bob", "release", "hold", name, "--detail", "slow")...) }
	resume := func() {
		for _, person := range []string{"bob", "carol"} {
			w.s.Run("cordonctl", w.s.By(person, "release", "resume", name)...)
		}
	}
	for _, c := range []struct {
		cycle string
		do    func()
		kind  string
	}{
		{"hold a release", hold, "release.held"},
		{"let a held release go", resume, "release.resumed"},
	} {
		const point = "server.release.marked"
		if !w.serverDies(point, c.do) {
			continue
		}
		c.do()
		if held := w.release(fmt.Sprintf("1.%d", number)).Hold; held != (c.kind == "release.held") {
			w.t.Errorf("%s: held %v", c.cycle, held)
		}
		w.check()
		w.happened(1, c.kind, name)
		w.book.add(row{point: point, process: "server", cycle: c.cycle, after: "done once"})
	}
}

// reports kills the server while it makes a report.
func (w *world) reports() {
	for _, point := range []string{"server.report.signed", "server.report.recorded"} {
		cause := func() {
			w.s.Run("cordonctl", w.s.By("dave", "report", "--from", "2020-01-01", "--out", w.s.Path(strings.ReplaceAll(point, ".", "-")+".json"))...)
		}
		if !w.serverDies(point, cause) {
			continue
		}
		w.s.Report()
		w.check()
		w.book.add(row{point: point, process: "server", cycle: "make a report", after: "the next one verifies"})
	}
}
