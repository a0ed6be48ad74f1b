package deviceapi_test

import (
	"testing"

	"github.com/cordon-ota/cordon/server/deviceapi"
)

func FuzzParseRange(f *testing.F) {
	for _, header := range []string{"", "bytes=0-", "bytes=5-9", "bytes=-5", "bytes=0-1,3-4", "bytes=99999999999999999999-"} {
		f.Add(header, int64(1000))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 1 {
			return
		}
		from, to, err := deviceapi.ParseRange(header, size)
		if err == nil && (from < 0 || from >= to || to > size) {
			t.Errorf("%q of %d bytes: got [%d, %d)", header, size, from, to)
		}
	})
}
