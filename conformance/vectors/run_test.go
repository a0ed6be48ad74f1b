package vectors_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/conformance/vectors"
)

// TestMain lets the test binary be the verifier that it asks.
func TestMain(m *testing.M) {
	switch name := os.Getenv("VECTORS_VERIFIER"); name {
	case "go-tpm-tools", "go-attestation":
		if err := serveLibrary(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "cordon":
		if err := vectors.Serve(os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
	case "babble":
		_, _ = os.Stdout.WriteString("yes\n")
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "silent":
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "ends":
	default:
		os.Exit(m.Run())
	}
}

func load(t *testing.T) []vectors.Vector {
	t.Helper()
	var all []vectors.Vector
	for _, dir := range []string{folder, identityFolder, quotesFolder} {
		some, err := vectors.Load(os.DirFS(dir))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, some...)
	}
	return all
}

// The documented protocol, spoken by another process.
func TestAnotherProcessAnswersEveryVector(t *testing.T) {
	t.Setenv("VECTORS_VERIFIER", "cordon")
	ask, stop, err := vectors.Start(t.Context(), io.Discard, os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	var out bytes.Buffer
	if err := vectors.Run(load(t), ask, &out); err != nil || !strings.Contains(out.String(), " 0 with other reasons, 0 undecided, 0 wrongly refused, 0 wrongly accepted") {
		t.Errorf("got %v\n%s", err, out.String())
	}
}

func TestVerifiersThatCannotBeAsked(t *testing.T) {
	for _, how := range []string{"ends", "babble"} {
		t.Setenv("VECTORS_VERIFIER", how)
		ask, stop, err := vectors.Start(t.Context(), io.Discard, os.Args[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := vectors.Run(load(t), ask, io.Discard); !errors.Is(err, vectors.ErrVerifier) {
			t.Errorf("%s: got %v, want ErrVerifier", how, err)
		}
		stop()
	}
	if _, _, err := vectors.Start(t.Context(), io.Discard, "no-such-verifier"); !errors.Is(err, vectors.ErrVerifier) {
		t.Errorf("missing: got %v, want ErrVerifier", err)
	}
}

// A verifier that says yes to everything, and one that says no, are both found out.
func TestCredulousAndParanoidVerifiersAreFoundOut(t *testing.T) {
	t.Parallel()
	for outcome, want := range map[string]string{vectors.Affirmed: "wrongly accepted: N", vectors.Refused: "wrongly refused: P1-plain"} {
		var out bytes.Buffer
		err := vectors.Run(load(t), func(q vectors.Question) (vectors.Answer, error) {
			return vectors.Answer{Name: q.Name, Outcome: outcome}, nil
		}, &out)
		if !errors.Is(err, vectors.ErrWrong) || !strings.Contains(out.String(), want) {
			t.Errorf("%s: got %v\n%s", outcome, err, out.String())
		}
	}
}

// An answer that costs more memory than its vector allows is found out, although it is right.
func TestWastefulAnswerIsFoundOut(t *testing.T) {
	all := load(t)[:1]
	all[0].MaxAlloc = 16
	var out bytes.Buffer
	if err := vectors.RunOurs(all, &out); !errors.Is(err, vectors.ErrWrong) || !strings.Contains(out.String(), "too much memory: ") {
		t.Errorf("got %v\n%s", err, out.String())
	}
}
