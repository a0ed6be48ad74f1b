package installer

import "strings"

// compareVersions is the order of the UAPI version format specification, which systemd-boot sorts images by
// (strverscmp_improved).
func compareVersions(a, b string) int {
	for {
		a, b = strings.TrimLeftFunc(a, noVersion), strings.TrimLeftFunc(b, noVersion)
		for _, mark := range []byte{'~', 0, '-', '^', '.'} {
			if order, decided, both := compareMark(a, b, mark); decided {
				return order
			} else if both {
				a, b = a[1:], b[1:]
			}
		}
		if digit(a) || digit(b) {
			var x, y string
			x, a = span(a, isDigit)
			y, b = span(b, isDigit)
			x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			if len(x) != len(y) {
				return sign(len(x) - len(y))
			}
			if order := strings.Compare(x, y); order != 0 {
				return order
			}
			continue
		}
		var x, y string
		x, a = span(a, isLetter)
		y, b = span(b, isLetter)
		if order := strings.Compare(x, y); order != 0 {
			return order
		}
	}
}

// compareMark looks at one separator. A string with '~' is the older one, one with another mark before the other's end
// or letters too. mark 0 stands for the end: a string that ends is the older one.
func compareMark(a, b string, mark byte) (order int, decided, both bool) {
	has := func(s string) bool { return len(s) > 0 && s[0] == mark }
	if mark == 0 {
		has = func(s string) bool { return s == "" }
	}
	switch x, y := has(a), has(b); {
	case x && y:
		return 0, mark == 0, mark != 0
	case x:
		return -1, true, false
	case y:
		return 1, true, false
	}
	return 0, false, false
}

func isDigit(r rune) bool { return r >= '0' && r <= '9' }

func isLetter(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' }

func noVersion(r rune) bool { return !isDigit(r) && !isLetter(r) && !strings.ContainsRune("~-^.", r) }

func digit(s string) bool { return s != "" && isDigit(rune(s[0])) }

func sign(n int) int { return max(-1, min(n, 1)) }

// span cuts s behind the characters that belong.
func span(s string, belongs func(rune) bool) (head, rest string) {
	rest = strings.TrimLeftFunc(s, belongs)
	return s[:len(s)-len(rest)], rest
}
