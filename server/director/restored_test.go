package director_test

import (
	"testing"

	"github.com/cordon-ota/cordon/server/director"
)

// After a restore the stored version is not the newest that the device may have seen.
func TestVersionsLieAboveARestore(t *testing.T) {
	t.Parallel()
	const lost = 1 << 40
	before := director.New(newKey(t), life)
	prev, _ := next(t, before, release("2"), nil, 0, now)
	s := before.Above(lost)
	first, changed := next(t, s, release("2"), &prev, 0, now)
	if !changed || first.Number <= lost {
		t.Fatalf("got version %d, changed %v, want one above %d", first.Number, changed, int64(lost))
	}
	if again, changed := next(t, s, release("2"), &first, first.Number, now); changed || again.Number != first.Number {
		t.Errorf("signed again without need: version %d", again.Number)
	}
	if second, _ := next(t, s, release("3"), &first, first.Number, now); second.Number != first.Number+1 {
		t.Errorf("got version %d after %d", second.Number, first.Number)
	}
	if never, _ := next(t, before, release("2"), nil, 0, now); never.Number != 1 {
		t.Errorf("without a restore: got version %d", never.Number)
	}
}
