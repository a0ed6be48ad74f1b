package parts

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// SWUpdate is a system that SWUpdate updates, in the files that Machine and installertest.Slots boot by: the slots a.img and
// b.img, the file next, which an installed image writes to name its slot for the next boot, and the files active and
// running.
type SWUpdate struct {
	dir string
}

// swupdateHooks returns what the maker of such a device writes for the agent.
func swupdateHooks() map[string]string {
	return map[string]string{
		"running": `trial=true; [ "$running" != "$active" ] || trial=false
printf '{"slot":"%s","trial":%s}' "$running" "$trial"`,
		"commit":   `echo "$running" >active.new && mv active.new active; rm -f tried`,
		"rollback": `rm -f next`,
		"select":   `echo "stable,$free"`,
	}
}

// NewSWUpdate makes such a system in dir: keys, hooks, and a program that gives SWUpdate the keys and the hardware revision.
func NewSWUpdate(ctx context.Context, dir string) (*SWUpdate, error) {
	if err := Require(ctx, os.Stderr, "swupdate", "openssl", "cpio"); err != nil {
		return nil, err
	}
	path, err := command("swupdate")
	if err != nil {
		return nil, err
	}
	s := &SWUpdate{dir: dir}
	program := "#!/bin/sh\nexport TMPDIR=" + dir + "\nexec " + path + " -H edge:1.0 -k " + s.path("cert.pem") + ` "$@" </dev/null` + "\n"
	if err := os.WriteFile(s.Program(), []byte(program), 0o755); err != nil {
		return nil, fmt.Errorf("cannot make a system for SWUpdate: %w", err)
	}
	if err := s.layHooks(); err != nil {
		return nil, fmt.Errorf("cannot make a system for SWUpdate: %w", err)
	}
	_, err = run(ctx, "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=images", "-days", "3650",
		"-addext", "keyUsage=digitalSignature", "-addext", "extendedKeyUsage=emailProtection", "-keyout", s.path("key.pem"), "-out", s.path("cert.pem"))
	return s, err
}

func (s *SWUpdate) path(name string) string { return filepath.Join(s.dir, name) }

func (s *SWUpdate) layHooks() error {
	if err := errors.Join(os.MkdirAll(s.path("hooks"), 0o755), os.Chmod(s.dir, 0o755)); err != nil { // whatever the umask is
		return err
	}
	head := "#!/bin/sh\nset -e\ncd '" + s.dir + "'\nactive=$(cat active) running=$(cat running)\nfree=b; [ \"$running\" = a ] || free=a\n"
	for name, text := range swupdateHooks() {
		if err := os.WriteFile(s.path("hooks/"+name), []byte(head+text+"\n"), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// Spec is what the agent's --installer takes; images go to the folder of the slots.
func (s *SWUpdate) Spec() string {
	return "swupdate:" + s.dir + ",hooks=" + s.path("hooks") + ",program=" + s.Program()
}

// Program is a swupdate with the options of this system.
func (s *SWUpdate) Program() string { return s.path("swupdate") }

// Image makes a signed image that fills the slot that is selected ("stable,a" or "stable,b").
func (s *SWUpdate) Image(ctx context.Context, version string, content []byte) ([]byte, error) {
	work, err := os.MkdirTemp(s.dir, "image-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	var text strings.Builder
	fmt.Fprintf(&text, "software = { version = %q; hardware-compatibility: [ \"1.0\" ]; stable = {\n", version)
	files := map[string][]byte{"rootfs.img": content}
	for _, slot := range []string{"a", "b"} {
		name := "post-" + slot + ".sh"
		files[name] = fmt.Appendf(nil, "#!/bin/sh\necho %s >%s\n", slot, s.path("next"))
		fmt.Fprintf(&text, "%s: { files: ( { filename = \"rootfs.img\"; path = \"%s\"; sha256 = \"%x\"; } );\n", slot, s.path(slot+".img"), sha256.Sum256(content))
		fmt.Fprintf(&text, "scripts: ( { filename = \"%s\"; type = \"postinstall\"; sha256 = \"%x\"; } ); };\n", name, sha256.Sum256(files[name]))
	}
	text.WriteString("}; }\n")
	files["sw-description"] = []byte(text.String())
	for name, b := range files {
		err = errors.Join(err, os.WriteFile(filepath.Join(work, name), b, 0o755))
	}
	if err != nil {
		return nil, err
	}
	if _, err := run(ctx, "openssl", "cms", "-sign", "-in", filepath.Join(work, "sw-description"), "-out", filepath.Join(work, "sw-description.sig"),
		"-signer", s.path("cert.pem"), "-inkey", s.path("key.pem"), "-outform", "DER", "-nosmimecap", "-binary"); err != nil {
		return nil, err
	}
	return pack(ctx, work, "sw-description", "sw-description.sig", "rootfs.img", "post-a.sh", "post-b.sh")
}

// pack makes an archive of files in the order in which SWUpdate wants them.
func pack(ctx context.Context, dir string, names ...string) ([]byte, error) {
	cpio, err := command("cpio")
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, cpio, "-o", "-H", "crc")
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(strings.Join(names, "\n")+"\n")
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("cannot pack image: %w: %s", err, tail(said.Bytes()))
	}
	return out.Bytes(), nil
}
