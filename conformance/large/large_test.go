package large_test

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/cordon-ota/cordon/conformance/demo"
	"github.com/cordon-ota/cordon/conformance/large"
)

const (
	imageBytes  = 1 << 30
	breakEvery  = 10 << 20
	maxResident = 100 << 20
	maxOverhead = 1.02 // of all bytes on the link over the image's
)

// An image of 1 GiB is published, served, downloaded, verified and installed over links that break every 10 MiB: with
// little memory, and without sending much of it twice.
func TestOneGiBImage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bin := filepath.Join(dir, "bin")
	if err := demo.Build(t.Context(), bin); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(dir, "image")
	if err := large.WriteImage(image, imageBytes, 1); err != nil {
		t.Fatal(err)
	}
	for name, s3 := range map[string]bool{"directory": false, "S3": true} { // in turn: each needs 3 GiB of disk
		t.Run(name, func(t *testing.T) {
			r := newRoad(t, bin, image, s3)
			r.refusesToMeasure()
			r.publish()
			r.install()
			r.report()
		})
	}
}

type road struct {
	t     *testing.T
	bin   string
	image string
	stage *demo.Stage
	rows  []row
}

type row struct {
	what  string
	peak  int64 // of the program
	bytes int64 // on the link; 0 where there is none
	took  time.Duration
}

// longTimes keep leases alive on a slow machine.
const longTimes = `
[times]
timestamp = "20s"
poll = "30s"
beacon_window = "10m"
lease = "30m"
grace = "1h"
challenge = "5m"
update_deadline = "2h"
enforce = "200ms"
`

func newRoad(t *testing.T, bin, image string, s3 bool) *road {
	return &road{t: t, bin: bin, image: image, stage: demo.NewStage(t, demo.StageConfig{Bin: bin, Times: longTimes, S3: s3})}
}

func (r *road) run(program string, args ...string) large.Result {
	r.t.Helper()
	env := []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "HOME=" + r.stage.Path("home"), "TMPDIR=" + r.stage.Path("tmp")}
	out, err := large.Run(r.t.Context(), r.stage.Path(), env, filepath.Join(r.bin, program), args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *road) link(to string) (*large.Link, string) {
	r.t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		r.t.Fatal(err)
	}
	l, err := large.NewLink(u.Host, breakEvery)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(l.Close)
	u.Host = l.Addr()
	return l, u.String()
}

func (r *road) publishArgs(server, version, measured string) []string {
	return []string{"publish", "--server", server, "--ca-sha256", r.pin(), "--token-file", r.stage.Path("ci-builder.token"),
		"--product", "gateway", "--version", version, "--key", "publisher.pem",
		"--component", "system=" + r.image + ",hw=board-a,installer=ab,measured=" + measured}
}

// pin is the SHA-256 of the server's CA, as the stage gives it to every program.
func (r *road) pin() string {
	args := r.stage.By("bob")
	for i, a := range args {
		if a == "--ca-sha256" {
			return args[i+1]
		}
	}
	r.t.Fatal("the stage pins no CA")
	return ""
}

// refusesToMeasure: a large file that is no kernel image has no Reference Values; that is said before anything is sent.
func (r *road) refusesToMeasure() {
	link, server := r.link(r.stage.AdminURL())
	got := r.run("cordon-sign", r.publishArgs(server, "2.0", "yes")...)
	if got.Code == 0 || !strings.Contains(got.Output, "unified kernel image") {
		r.t.Errorf("publish of a measured image that is no UKI: exit %d, %s", got.Code, got.Output)
	}
	r.rows = append(r.rows, row{"signer, refuses", got.Peak, link.Bytes(), got.Took})
	if link.Bytes() > 1<<20 {
		r.t.Errorf("%d bytes were sent for a release that cannot be", link.Bytes())
	}
}

func (r *road) publish() {
	link, server := r.link(r.stage.AdminURL())
	got := r.run("cordon-sign", r.publishArgs(server, "2.0", "no")...)
	if got.Code != 0 {
		r.t.Fatalf("publish: exit %d\n%s\nserver: %s", got.Code, got.Output, r.stage.Log())
	}
	r.rows = append(r.rows, row{"signer, publishes", got.Peak, link.Bytes(), got.Took})
	r.checkLink("upload", link)
}

func (r *road) install() {
	d := r.stage.NewDevice("device", true)
	trust, err := os.ReadFile(r.stage.Path("trust.json"))
	if err != nil {
		r.t.Fatal(err)
	}
	start := bytes.Index(trust, []byte("https://"))
	end := start + bytes.IndexByte(trust[start:], '"')
	link, server := r.link(string(trust[start:end]))
	broken := filepath.Join(r.t.TempDir(), "trust.json")
	if err := os.WriteFile(broken, bytes.Replace(trust, trust[start:end], []byte(server), 1), 0o600); err != nil {
		r.t.Fatal(err)
	}
	got := r.run("cordon-agent", append(d.Args(), "--trust", broken, "--once")...)
	if got.Code != 0 || !strings.Contains(got.Output, `"gateway/2.0"`) {
		r.t.Fatalf("install: exit %d\n%s\nserver: %s", got.Code, got.Output, r.stage.Log())
	}
	r.rows = append(r.rows, row{"agent, installs", got.Peak, link.Bytes(), got.Took})
	r.checkLink("download", link)
	r.compare(d)
}

// compare holds the written slot against the image.
func (r *road) compare(d *demo.Device) {
	slots := ""
	for _, a := range d.Args() {
		if dir, ok := strings.CutPrefix(a, "ab:"); ok {
			slots = dir
		}
	}
	r.t.Cleanup(func() { _ = os.Remove(filepath.Join(slots, "b.img")) }) // 1 GiB; the folder goes with the test anyway
	same, err := sameFiles(r.image, filepath.Join(slots, "b.img"))
	if err != nil || !same {
		r.t.Errorf("the slot holds the image: %v, %v", same, err)
	}
}

func (r *road) checkLink(what string, link *large.Link) {
	if over := float64(link.Bytes()) / imageBytes; over > maxOverhead {
		r.t.Errorf("%s: %d bytes on the link are %.3f of the image, at most %.2f are allowed", what, link.Bytes(), over, maxOverhead)
	}
	if want := int64(imageBytes/breakEvery - 10); link.Broken() < want {
		r.t.Errorf("%s: the link broke %d times, want at least %d: it proved nothing", what, link.Broken(), want)
	}
}

// report asserts memory and prints the table.
func (r *road) report() {
	pid, err := large.Find(r.stage.Path("cordond.toml"))
	if err != nil {
		r.t.Fatal(err)
	}
	peak, err := large.Peak(pid)
	if err != nil {
		r.t.Fatal(err)
	}
	r.rows = append(r.rows, row{what: "server, all of it", peak: peak})
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "process\tMiB resident\tbytes on the link\tof the image\tseconds\t\n")
	for _, x := range r.rows {
		fmt.Fprintf(w, "%s\t%.1f\t%d\t%.4f\t%.1f\t\n", x.what, float64(x.peak)/(1<<20), x.bytes, float64(x.bytes)/imageBytes, x.took.Seconds())
		if x.peak >= maxResident || x.peak == 0 {
			r.t.Errorf("%s: %d bytes resident, fewer than %d are allowed", x.what, x.peak, maxResident)
		}
	}
	w.Flush()
	r.t.Logf("\n%s", b.String())
}
