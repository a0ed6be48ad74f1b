package eventlog

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
)

// maxText bounds how much of the log's own text one explanation repeats, in characters.
const maxText = 200

// clean makes text from a log fit for a terminal, a page and a report: one line, bounded, no control characters.
func clean(s string) string {
	var out strings.Builder
	n := 0
	for _, r := range strings.TrimRight(s, "\x00") {
		if n == maxText {
			out.WriteString("...")
			break
		}
		switch {
		case r == '\n' || r == '\t':
			r = ' '
		case r == unicode.ReplacementChar || !unicode.IsPrint(r):
			r = '?'
		}
		out.WriteRune(r)
		n++
	}
	return out.String()
}

// printable reports whether b is ASCII text, perhaps with a zero byte at its end.
func printable(b []byte) bool {
	for i, c := range b {
		if c == 0 && i == len(b)-1 {
			continue
		}
		if (c < 0x20 || c > 0x7E) && c != '\n' && c != '\t' {
			return false
		}
	}
	return true
}

// fromUTF16 decodes little-endian UTF-16; an odd last byte is dropped.
func fromUTF16(b []byte) string {
	if text, ok := asciiUTF16(b); ok {
		return text
	}
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(units))
}

// asciiUTF16 decodes what is short and ASCII, as nearly all names are, with one allocation.
func asciiUTF16(b []byte) (string, bool) {
	var text [64]byte
	n := len(b) / 2
	if n > len(text) {
		return "", false
	}
	for i := range n {
		if b[2*i] > unicode.MaxASCII || b[2*i+1] != 0 {
			return "", false
		}
		text[i] = b[2*i]
	}
	return string(text[:n]), true
}

// cutUTF16 returns the text up to the first zero unit and the bytes after it.
func cutUTF16(b []byte) (string, []byte) {
	for i := 0; i+1 < len(b); i += 2 {
		if b[i] == 0 && b[i+1] == 0 {
			return fromUTF16(b[:i]), b[i+2:]
		}
	}
	return fromUTF16(b), nil
}

// utf16Text decodes data that is one zero-terminated UTF-16 text of printable characters.
func utf16Text(b []byte) (string, bool) {
	if len(b) < 4 || printable(b) {
		return "", false
	}
	if len(b)%2 != 0 { // systemd-boot before version 251 left the last zero byte out
		if b[len(b)-1] != 0 {
			return "", false
		}
		b = b[:len(b)-1]
	}
	text, rest := cutUTF16(b)
	if len(rest) != 0 || text == "" {
		return "", false
	}
	for _, r := range text {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) && !unicode.IsSpace(r) {
			return "", false
		}
	}
	return text, true
}

// version renders EV_S_CRTM_VERSION data: a text in UTF-16 or ASCII, a GUID, or bytes.
func version(b []byte) string {
	if text, ok := utf16Text(b); ok {
		return clean(text)
	}
	if printable(b) && len(b) > 0 {
		return clean(string(b))
	}
	if len(b) == 16 {
		return GUID(b).String()
	}
	if len(b) == 0 || strings.Trim(string(b), "\x00") == "" {
		return "not stated"
	}
	return fmt.Sprintf("%x", b[:min(len(b), 32)])
}

// blob renders UEFI_PLATFORM_FIRMWARE_BLOB: base and length.
func blob(b []byte) string {
	if len(b) != 16 {
		return fmt.Sprintf(" (%d bytes of description)", len(b))
	}
	return fmt.Sprintf(" at 0x%x (%d bytes)", binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]))
}

// named renders the structures whose first byte is the length of a description.
func named(b []byte) string {
	if len(b) > 1 && int(b[0]) < len(b) && printable(b[1:1+int(b[0])]) && b[0] > 0 {
		return ": " + clean(string(b[1:1+int(b[0])]))
	}
	return fmt.Sprintf(" (%d bytes of description)", len(b))
}

// tables renders UEFI_HANDOFF_TABLE_POINTERS, in the second form with a description.
func tables(e Event) string {
	b := e.Data
	if e.Type == TypeEFIHandoffTables2 {
		return named(b)
	}
	if len(b) < 8 {
		return ""
	}
	return fmt.Sprintf(" (%d)", binary.LittleEndian.Uint64(b))
}
