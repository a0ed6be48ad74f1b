package installer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf16"

	"golang.org/x/sys/unix"
)

// defaultVariables is where Linux shows the variables of the firmware.
const defaultVariables = "/sys/firmware/efi/efivars"

// Variables of the boot loader interface of systemd.
const (
	loaderVendor   = "-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
	stubImage      = "StubImageIdentifier" // the path of the image that runs; systemd-stub since 253
	countedPath    = "LoaderBootCountPath" // the path of an image on trial, after the counter was counted down
	selected       = "LoaderEntrySelected" // the file name, with the counter before the boot
	oneShot        = "LoaderEntryOneShot"  // a file name that systemd-boot starts once, whatever it prefers
	maxVariable    = 4096
	attributeBytes = 4
	// nonVolatile, boot service and run-time access.
	oneShotAttributes = 7
)

// variables are the EFI variables of this boot. An attacker who writes them is root on the device, and can make it tell
// or boot another image: the next quote shows which one that is.
type variables struct {
	dir string
}

// errNoVariables is returned where nothing tells which image was booted.
var errNoVariables = errors.New("the EFI variables do not say which image was booted: mount efivarfs, and boot the image with systemd-boot")

// booted returns the name of the file in EFI/Linux that was booted.
func (v variables) booted() (string, error) {
	name := ""
	for _, variable := range []string{stubImage, countedPath, selected} {
		text, err := v.read(variable)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		file, err := bootedFile(text)
		if err != nil {
			return "", fmt.Errorf("variable %s: %w", variable, err)
		}
		if name == "" {
			name = file
		}
		if !sameStem(name, file) {
			return "", fmt.Errorf("the EFI variables name two images as booted: %q and %q", name, file)
		}
	}
	if name == "" {
		return "", errNoVariables
	}
	return name, nil
}

func sameStem(a, b string) bool {
	x, _ := parseEntry(a)
	y, _ := parseEntry(b)
	return strings.EqualFold(x.stem, y.stem)
}

// bootedFile takes \EFI\Linux\NAME or NAME.
func bootedFile(text string) (string, error) {
	text = strings.ReplaceAll(text, `\`, "/")
	dir, file := "/EFI/Linux/", text
	if i := strings.LastIndexByte(text, '/'); i >= 0 {
		dir, file = text[:i+1], text[i+1:]
	}
	if file == "" || file == "." || file == ".." || !strings.EqualFold(strings.Trim(dir, "/"), "EFI/Linux") {
		return "", fmt.Errorf("%w: %q", errElsewhere, text)
	}
	return file, nil
}

func (v variables) path(name string) string { return filepath.Join(v.dir, name+loaderVendor) }

func (v variables) read(name string) (string, error) {
	f, err := openRegular(v.path(name))
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxVariable+1))
	if err != nil {
		return "", fmt.Errorf("variable %s: %w", name, err)
	}
	text, err := decodeVariable(b)
	if err != nil {
		return "", fmt.Errorf("variable %s: %w", name, err)
	}
	return text, nil
}

var errVariable = errors.New("it holds no text")

// decodeVariable reads what efivarfs shows of a variable that holds text: attributes, then UTF-16 that ends with a zero.
func decodeVariable(b []byte) (string, error) {
	if len(b) < attributeBytes+2 || len(b) > maxVariable || len(b)%2 != 0 {
		return "", errVariable
	}
	var units []uint16
	for b = b[attributeBytes:]; len(b) > 0; b = b[2:] {
		u := binary.LittleEndian.Uint16(b)
		if u == 0 {
			break
		}
		if u < ' ' {
			return "", errVariable
		}
		units = append(units, u)
	}
	if len(units) == 0 {
		return "", errVariable
	}
	return string(utf16.Decode(units)), nil
}

func encodeVariable(attributes uint32, text string) []byte {
	b := binary.LittleEndian.AppendUint32(nil, attributes)
	for _, u := range append(utf16.Encode([]rune(text)), 0) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

// setOneShot names the image of the next boot. efivarfs wants each variable in one write.
func (v variables) setOneShot(file string) error {
	if err := v.clearOneShot(); err != nil {
		return err
	}
	f, err := os.OpenFile(v.path(oneShot), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(encodeVariable(oneShotAttributes, strings.ToLower(file)))
	return errors.Join(err, f.Close())
}

// clearOneShot forgets what the next boot was to be. The kernel guards variables against rm; the guard is taken off.
func (v variables) clearOneShot() error {
	path := v.path(oneShot)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().IsRegular() {
		unguard(path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("cannot forget the image of the next boot: %w", err)
	}
	return nil
}

// immutable is FS_IMMUTABLE_FL of linux/fs.h.
const immutable = 0x10

// unguard takes the immutable flag off. Where that fails, the removal tells.
func unguard(path string) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return
	}
	defer f.Close()
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil || flags&immutable == 0 {
		return
	}
	_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags&^immutable)
}
