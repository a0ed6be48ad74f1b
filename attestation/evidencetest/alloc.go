package evidencetest

import "runtime"

// What reading bytes of a stranger may cost.
const (
	BoundedInput = 256 << 10 // bytes; larger input has other limits
	BoundedAlloc = 32 << 20  // bytes that may be allocated for it, all together
)

// Bounded calls read, which reads size bytes of a stranger, and reports an error when it allocated more than BoundedAlloc.
// Whatever else the process allocates meanwhile counts too: fuzz targets have it for themselves.
func Bounded(t interface {
	Helper()
	Errorf(format string, args ...any)
}, size int, read func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	read()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; size <= BoundedInput && n > BoundedAlloc {
		t.Errorf("%d bytes were allocated to read %d, at most %d", n, size, BoundedAlloc)
	}
}
