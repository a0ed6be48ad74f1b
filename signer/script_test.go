package main_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	main "github.com/cordon-ota/cordon/signer"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"cordon-sign": main.Main})
}

type serverKey struct{}

// TestScripts runs the CLI as it is typed. Each script has its own server: $SERVER, $PIN, ca.pem, admin.token, ci.token,
// expired.token; $CI is the folder of pipelines.
func TestScripts(t *testing.T) {
	t.Parallel()
	ci, err := filepath.Abs("ci")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			s, err := newServer()
			if err != nil {
				return err
			}
			env.Defer(s.http.Close)
			env.Values[serverKey{}] = s
			env.Setenv("SERVER", s.http.URL)
			env.Setenv("PIN", s.caPin.String())
			env.Setenv("CI", ci)
			for name, text := range map[string]string{
				"ca.pem": string(s.caPEM), "admin.token": adminToken + "\n", "ci.token": ciToken + "\n", "expired.token": expiredToken + "\n",
			} {
				if err := os.WriteFile(env.WorkDir+"/"+name, []byte(text), 0o600); err != nil {
					return err
				}
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"hold":    hold,
			"lie":     lie,
			"held":    held,
			"took":    took,
			"image":   writeImage,
			"uki":     writeUKI,
			"loader":  writeLoader,
			"grublog": writeGRUBLog,
			"replace": replace,
		},
		RequireExplicitExec: true,
	})
}

func serverOf(ts *testscript.TestScript) *server {
	s, ok := ts.Value(serverKey{}).(*server)
	if !ok {
		ts.Fatalf("script has no server")
	}
	return s
}

// hold OFFSET: uploads that reach OFFSET stand still; 0 lets them go.
func hold(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.ParseInt(args[0], 10, 64)
	ts.Check(err)
	s := serverOf(ts)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holdAt = n
}

// lie: the server's answers hold what moves a terminal's cursor.
func lie(ts *testscript.TestScript, _ bool, _ []string) {
	s := serverOf(ts)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lie = "\x1b[2Jall is well\r"
}

// held waits until an upload stands still.
func held(ts *testscript.TestScript, _ bool, _ []string) {
	select {
	case <-serverOf(ts).holding:
	case <-time.After(time.Minute):
		ts.Fatalf("no upload reached the offset")
	}
}

// took BYTES: exactly so many bytes of blobs came in since the last look.
func took(ts *testscript.TestScript, neg bool, args []string) {
	if got, want := serverOf(ts).took(), args[0]; (got == want) == neg {
		ts.Fatalf("server took %s bytes, want %s", got, want)
	}
}

// image FILE BYTES [SEED]: a file that is no UKI.
func writeImage(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	seed := "seed"
	if len(args) > 2 {
		seed = args[2]
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), bytes.Repeat([]byte(seed), n/len(seed)+1)[:n], 0o644))
}

// replace FILE OLD NEW: an edit by hand.
func replace(ts *testscript.TestScript, _ bool, args []string) {
	b, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	if !bytes.Contains(b, []byte(args[1])) {
		ts.Fatalf("%s does not hold %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), bytes.ReplaceAll(b, []byte(args[1]), []byte(args[2])), 0o644))
}

// uki FILE VERSION: a small unified kernel image.
func writeUKI(ts *testscript.TestScript, _ bool, args []string) {
	kernel := buildPE([]part{{".text", bytes.Repeat([]byte("kernel code "), 900)}})
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), buildPE([]part{
		{".text", bytes.Repeat([]byte("stub"), 300)},
		{".osrel", []byte("ID=cordon\nVERSION_ID=" + args[1] + "\n")},
		{".cmdline", []byte(fmt.Sprintf("console=ttyS0 fw.version=%s", args[1]))},
		{".linux", kernel},
		{".initrd", bytes.Repeat([]byte{7, 1}, 8<<10)},
	}), 0o644))
}

type part struct {
	name string
	data []byte
}

// buildPE writes a PE32+ program with these sections.
func buildPE(parts []part) []byte {
	const alignment, peOffset, optOffset, optSize = 512, 64, 64 + 24, 112 + 16*8
	round := func(n int) int { return (n + alignment - 1) / alignment * alignment }
	headers := round(optOffset + optSize + 40*len(parts))
	b := make([]byte, headers)
	le := binary.LittleEndian
	copy(b, "MZ")
	le.PutUint32(b[0x3C:], peOffset)
	copy(b[peOffset:], "PE\x00\x00\x64\x86")
	le.PutUint16(b[peOffset+6:], uint16(len(parts)))
	le.PutUint16(b[peOffset+20:], optSize)
	le.PutUint16(b[optOffset:], 0x20B)
	le.PutUint32(b[optOffset+60:], uint32(headers))
	le.PutUint32(b[optOffset+108:], 16)
	for i, p := range parts {
		row := b[optOffset+optSize+40*i:]
		copy(row[:8], p.name)
		le.PutUint32(row[8:], uint32(len(p.data)))
		le.PutUint32(row[12:], uint32(0x10000*(i+1)))
		le.PutUint32(row[16:], uint32(round(len(p.data))))
		le.PutUint32(row[20:], uint32(len(b)))
		b = append(b, p.data...)
		b = append(b, make([]byte, round(len(p.data))-len(p.data))...)
	}
	return b
}
