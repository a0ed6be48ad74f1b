//go:build cordon_crash

package crash

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// armed is what the environment asks for, read at the first passage.
var armed = sync.OnceValue(func() *trap {
	name, times, counted := strings.Cut(os.Getenv("CORDON_CRASH"), ":")
	t := &trap{point: Point(name), left: 1}
	if !counted {
		return t
	}
	n, err := strconv.Atoi(times)
	if err != nil || n < 1 {
		fmt.Fprintf(os.Stderr, "crash: CORDON_CRASH wants POINT or POINT:N, N at least 1\n")
		os.Exit(2)
	}
	t.left = n
	return t
})

type trap struct {
	point Point
	mu    sync.Mutex
	left  int // passages until the end; guarded by mu
}

// Here kills the process when CORDON_CRASH names the point ("POINT", or "POINT:N" for its N-th passage).
func Here(p Point) {
	t := armed()
	if p != t.point {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.left--; t.left > 0 {
		return
	}
	fmt.Fprintf(os.Stderr, "crash: %s\n", p)
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		os.Exit(137)
	}
	select {} // the signal is on its way
}
