package limit_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/server/limit"
)

func TestAllowsABurstThenOnePerInterval(t *testing.T) {
	t.Parallel()
	l := limit.New(3, time.Minute, 8)
	now := time.Unix(1_700_000_000, 0)
	for i := range 3 {
		if ok, _, _ := l.Allow("a", now); !ok {
			t.Fatalf("refused at %d", i)
		}
	}
	for range 5 {
		if ok, _, wait := l.Allow("a", now); ok || wait != time.Minute {
			t.Fatalf("beyond the burst: got %t, wait %s", ok, wait)
		}
	}
	if ok, _, _ := l.Allow("b", now); !ok {
		t.Error("one key took the allowance of another")
	}
	now = now.Add(time.Minute)
	if ok, refused, _ := l.Allow("a", now); !ok || refused != 5 {
		t.Errorf("after an interval: got %t, %d refused before, want 5", ok, refused)
	}
	if ok, _, _ := l.Allow("a", now); ok {
		t.Error("two in one interval")
	}
	if ok, _, _ := l.Allow("a", now.Add(-time.Hour)); ok {
		t.Error("a clock that goes back gave tokens")
	}
}

func TestManyKeysShareOneAllowance(t *testing.T) {
	t.Parallel()
	l := limit.New(2, time.Minute, 4)
	now := time.Unix(1_700_000_000, 0)
	allowed := 0
	for i := range 1000 {
		if ok, _, _ := l.Allow(fmt.Sprint(i), now); ok {
			allowed++
		}
	}
	if want := 4 + 2; allowed != want {
		t.Errorf("%d of 1000 keys were allowed, want %d", allowed, want)
	}
	if ok, _, _ := l.Allow("new", now.Add(time.Hour)); !ok {
		t.Error("idle keys were not forgotten")
	}
}
