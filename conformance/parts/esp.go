package parts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// SystemdBoot is Debian's systemd-boot, unsigned.
const SystemdBoot = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"

// DiskSpec describes the disk of a PC: a GUID partition table with an EFI system partition and an ext4 data partition.
// All identifiers are fixed, so that PCR 5 does not depend on when the disk was made.
type DiskSpec struct {
	Out  string            // file to make; it must not exist
	ESP  map[string]string // files of the EFI system partition: path on it -> file of this machine
	Text map[string]string // further files of the EFI system partition: path on it -> content

	ESPBytes  int64 // size of the EFI system partition; 0: 260 MiB
	DataBytes int64 // size of the data partition; 0: 64 MiB
}

const (
	mebibyte  = 1 << 20
	espOffset = mebibyte

	diskGUID = "11111111-2222-3333-4444-555555555555"
	espGUID  = "aaaaaaaa-2222-3333-4444-555555555555"
	dataGUID = "bbbbbbbb-2222-3333-4444-555555555555"
	dataUUID = "cccccccc-2222-3333-4444-555555555555"
)

// MakeDisk makes a disk without root, with mtools and mke2fs.
func MakeDisk(ctx context.Context, spec DiskSpec) (err error) {
	if err := Require(ctx, os.Stderr, "mtools", "gdisk", "e2fsprogs"); err != nil {
		return err
	}
	espBytes, dataBytes := spec.sizes()
	if espBytes%mebibyte != 0 || dataBytes%mebibyte != 0 || espBytes < 64*mebibyte || dataBytes < 8*mebibyte {
		return fmt.Errorf("cannot make disk with partitions of %d and %d bytes: whole MiB, at least 64 and 8", espBytes, dataBytes)
	}
	f, err := os.OpenFile(spec.Out, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("cannot make disk: %w", err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			os.Remove(spec.Out)
		}
	}()
	if err := f.Truncate(espOffset + espBytes + dataBytes + mebibyte); err != nil {
		return fmt.Errorf("cannot make disk: %w", err)
	}
	end := espBytes/mebibyte + 1
	if _, err := run(ctx, "sgdisk", "-o", "--disk-guid="+diskGUID,
		"-n", fmt.Sprintf("1:2048:%d", end*2048-1), "-t", "1:ef00", "-c", "1:ESP", "--partition-guid=1:"+espGUID,
		"-n", fmt.Sprintf("2:%d:%d", end*2048, (end+dataBytes/mebibyte)*2048-1), "-t", "2:8300", "-c", "2:data", "--partition-guid=2:"+dataGUID,
		spec.Out); err != nil {
		return err
	}
	if err := makeExt4(ctx, f, end*mebibyte, dataBytes); err != nil {
		return err
	}
	return fillESP(ctx, spec, espBytes)
}

func (s DiskSpec) sizes() (esp, data int64) {
	esp, data = s.ESPBytes, s.DataBytes
	if esp == 0 {
		esp = 260 * mebibyte
	}
	if data == 0 {
		data = 64 * mebibyte
	}
	return esp, data
}

// makeExt4 makes a file system in a file of its own and copies what is not zero of it into the disk.
func makeExt4(ctx context.Context, disk *os.File, offset, size int64) error {
	file, err := os.CreateTemp(filepath.Dir(disk.Name()), ".data-")
	if err != nil {
		return fmt.Errorf("cannot make data partition: %w", err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if err := file.Truncate(size); err != nil {
		return fmt.Errorf("cannot make data partition: %w", err)
	}
	if _, err := run(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-L", "data", "-U", dataUUID, "-E", "hash_seed="+dataUUID+",lazy_itable_init=0",
		"-m", "0", file.Name()); err != nil {
		return err
	}
	return copySparse(io.NewOffsetWriter(disk, offset), file)
}

// CopySparse copies a disk to a file that does not exist yet; what is zero takes no room in it.
func CopySparse(to, from string) error {
	r, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("cannot copy: %w", err)
	}
	defer r.Close()
	info, err := r.Stat()
	if err != nil {
		return fmt.Errorf("cannot copy: %w", err)
	}
	w, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot copy: %w", err)
	}
	if err := errors.Join(w.Truncate(info.Size()), copySparse(w, r), w.Close()); err != nil {
		return fmt.Errorf("cannot copy %s: %w", from, err)
	}
	return nil
}

// copySparse copies a file and leaves out blocks of zeros.
func copySparse(to io.WriterAt, from io.Reader) error {
	block, zero := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); ; {
		n, err := io.ReadFull(from, block)
		if n > 0 && !bytes.Equal(block[:n], zero[:n]) {
			if _, err := to.WriteAt(block[:n], at); err != nil {
				return fmt.Errorf("cannot copy: %w", err)
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot copy: %w", err)
		}
	}
}

func fillESP(ctx context.Context, spec DiskSpec, size int64) error {
	esp := OpenESP(spec.Out)
	sectors := strconv.FormatInt(size/512, 10)
	if _, err := esp.tool(ctx, nil, "mformat", "-F", "-N", "12345678", "-v", "ESP", "-T", sectors, "-h", "255", "-s", "63", "::"); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(spec.ESP)) {
		if err := esp.Copy(ctx, name, spec.ESP[name]); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Text)) {
		if err := esp.Write(ctx, name, []byte(spec.Text[name])); err != nil {
			return err
		}
	}
	return nil
}

// ESP is the EFI system partition of a disk made by MakeDisk, for edits while no machine runs from it: what somebody can
// do who holds the disk. Paths are like EFI/Linux/fw-1.efi. It holds no state; one edit at a time.
type ESP struct {
	disk string
}

// OpenESP names the EFI system partition of a disk.
func OpenESP(disk string) ESP { return ESP{disk: disk} }

// espPath is a path that mtools takes literally.
var espPath = regexp.MustCompile(`^[A-Za-z0-9._+~ -]+(/[A-Za-z0-9._+~ -]+)*$`)

func (e ESP) tool(ctx context.Context, stdin io.Reader, name string, args ...string) ([]byte, error) {
	path, err := command(name)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, append([]string{"-i", e.disk + "@@1M"}, args...)...)
	cmd.Stdin = stdin
	cmd.Env = []string{"LC_ALL=C", "MTOOLS_SKIP_CHECK=1", "MTOOLSRC=/dev/null"}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("cannot edit the EFI system partition: %s %s: %w: %s", name, strings.Join(args, " "), err, tail(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}

// on checks a path and returns it as mtools write it.
func (e ESP) on(name string) (string, error) {
	if !espPath.MatchString(name) || path.Clean(name) != name || strings.HasPrefix(name, "..") {
		return "", fmt.Errorf("cannot edit the EFI system partition: %q is not a plain path", name)
	}
	return "::" + name, nil
}

// folders makes the folders above a path.
func (e ESP) folders(ctx context.Context, name string) error {
	parent := path.Dir(name)
	if parent == "." {
		return nil
	}
	if _, err := e.List(ctx, parent); err == nil {
		return nil
	}
	if err := e.folders(ctx, parent); err != nil {
		return err
	}
	_, err := e.tool(ctx, nil, "mmd", "::"+parent)
	return err
}

// Copy writes a file of this machine to a path, over what is there.
func (e ESP) Copy(ctx context.Context, name, file string) error {
	at, err := e.on(name)
	if err != nil {
		return err
	}
	if err := e.folders(ctx, name); err != nil {
		return err
	}
	_, err = e.tool(ctx, nil, "mcopy", "-o", file, at)
	return err
}

// Write writes content to a path, over what is there.
func (e ESP) Write(ctx context.Context, name string, content []byte) error {
	at, err := e.on(name)
	if err != nil {
		return err
	}
	if err := e.folders(ctx, name); err != nil {
		return err
	}
	_, err = e.tool(ctx, bytes.NewReader(content), "mcopy", "-o", "-", at)
	return err
}

// Read returns a file.
func (e ESP) Read(ctx context.Context, name string) ([]byte, error) {
	at, err := e.on(name)
	if err != nil {
		return nil, err
	}
	return e.tool(ctx, nil, "mtype", at)
}

// Rename gives a file of a folder another name in it.
func (e ESP) Rename(ctx context.Context, from, to string) error {
	at, err := e.on(from)
	if err != nil {
		return err
	}
	if _, err := e.on(to); err != nil || path.Dir(from) != path.Dir(to) {
		return errors.Join(err, fmt.Errorf("cannot rename %q to %q: a new name in the same folder is wanted", from, to))
	}
	_, err = e.tool(ctx, nil, "mren", at, path.Base(to))
	return err
}

// Remove removes a file.
func (e ESP) Remove(ctx context.Context, name string) error {
	at, err := e.on(name)
	if err != nil {
		return err
	}
	_, err = e.tool(ctx, nil, "mdel", at)
	return err
}

// List returns the names in a folder, sorted.
func (e ESP) List(ctx context.Context, folder string) ([]string, error) {
	at, err := e.on(folder)
	if err != nil {
		return nil, err
	}
	out, err := e.tool(ctx, nil, "mdir", "-b", at+"/")
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		names = append(names, path.Base(strings.TrimRight(line, "/\r\n")))
	}
	slices.Sort(names)
	return names, nil
}
