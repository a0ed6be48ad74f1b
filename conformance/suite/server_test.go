package suite_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/conformance/demo"
	"github.com/cordon-ota/cordon/conformance/suite"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

var programs = demo.NewPrograms("")

func TestMain(m *testing.M) { os.Exit(programs.Run(m)) }

// prepared is a real cordond that trusts the suite's root and knows the firmware of its devices, as the page says.
func prepared(t *testing.T) (*demo.Stage, suite.Config) {
	t.Helper()
	s := demo.NewStage(t, demo.StageConfig{Bin: programs.Dir(t)})
	root := s.Path("suite.pem")
	if err := suite.NewRoot(root); err != nil {
		t.Fatal(err)
	}
	trusted, err := os.ReadFile(root)
	if err != nil {
		t.Fatal(err)
	}
	roots, err := os.ReadFile(s.Path("ek-roots.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Path("ek-roots.pem"), append(append(roots, '\n'), trusted...), 0o644); err != nil {
		t.Fatal(err)
	}
	s.StopServer()
	s.StartServer()
	for _, args := range [][]string{
		{"product", "baseline", "--dir", "ceremony", "--product", "gateway", "--profile", "conformance", "--pcrs", root + ".pcrs"},
		{"root", "sign", "--dir", "ceremony", "--key", "hanna.pem"},
		{"root", "sign", "--dir", "ceremony", "--key", "henry.pem"},
		{"root", "apply", "--dir", "ceremony", "--token-file", s.Path("alice.token")},
	} {
		if code, _, stderr := s.Run("cordon-sign", args...); code != 0 {
			t.Fatalf("cordon-sign %v: exit %d: %s", args, code, stderr)
		}
	}
	return s, configOf(t, s, root)
}

func configOf(t *testing.T, s *demo.Stage, root string) suite.Config {
	t.Helper()
	c := suite.Config{Product: "gateway", Out: t.Output()}
	for i := range suite.Tokens() {
		file := s.Path(fmt.Sprintf("suite-%d.token", i))
		s.Ctl("bob", "enroll-token", "new", "--product", "gateway", "--hardware-id", "board-a", "--profile", "conformance", "--token-out", file)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		c.Tokens = append(c.Tokens, string(bytes.TrimSpace(b)))
	}
	var err error
	if c.Root, err = suite.ReadRoot(root); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(s.Path("trust.json"))
	if err != nil {
		t.Fatal(err)
	}
	trust, err := wire.DecodeTrust(b)
	if err != nil {
		t.Fatal(err)
	}
	c.Server, c.CA = trust.Server, []byte(trust.ServerCA)
	return c
}

// A real cordond answers every case rightly, with cordon's own reasons, and its history stays one that an auditor believes.
func TestCordondAnswersEveryCaseRightly(t *testing.T) {
	t.Parallel()
	s, c := prepared(t)
	report, err := suite.Run(t.Context(), c)
	if err != nil && !errors.Is(err, suite.ErrWrong) {
		t.Fatal(err)
	}
	for _, row := range report.Rows {
		if row.Judgement != vectors.Right {
			t.Errorf("%s %s: %s: got %s %v, want %s %v (%d %s)", row.Case, row.Name, row.Judgement, row.Got, row.Said, row.Outcome, row.Reasons, row.Status, row.Note)
		}
	}
	if len(report.Rows) < 200 || len(report.Devices) != suite.Tokens() {
		t.Errorf("%d cases were asked with %d devices", len(report.Rows), len(report.Devices))
	}
	for _, d := range report.Devices {
		s.Ctl("bob", "device", "retire", d.ID)
	}
	s.Report()
}
