// Package limit bounds how often one key may make the server write something for good: an audit event, a refused
// appraisal. Whoever can cause such a write without proving anything could fill the disk and bury what matters.
//
// It refuses to grow: it knows a bounded number of keys, and all others share one allowance. It counts what it refuses, so
// that the next event can say how many it stands for. Counts are kept in memory and for this process alone.
package limit

import (
	"sync"
	"time"
)

// Limiter is a set of token buckets. It is safe for concurrent use.
type Limiter struct {
	burst int
	every time.Duration
	most  int

	mu      sync.Mutex
	buckets map[string]*bucket // guarded by mu
	shared  bucket             // of keys that found no room; guarded by mu
}

type bucket struct {
	used    float64 // tokens that are gone
	at      time.Time
	refused int
}

// New lets every key act burst times at once and once per every after that. At most most keys are told apart.
func New(burst int, every time.Duration, most int) *Limiter {
	return &Limiter{burst: burst, every: every, most: most, buckets: map[string]*bucket{}}
}

// Allow takes one token of the key. refused is how often the key was refused since it was last allowed; wait is, when ok
// is false, how long until the next token.
func (l *Limiter) Allow(key string, now time.Time) (ok bool, refused int, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.find(key, now)
	l.refill(b, now)
	if b.used > float64(l.burst)-1 {
		b.refused++
		return false, 0, time.Duration((b.used - float64(l.burst) + 1) * float64(l.every))
	}
	b.used++
	refused, b.refused = b.refused, 0
	return true, refused, 0
}

func (l *Limiter) find(key string, now time.Time) *bucket {
	if b, ok := l.buckets[key]; ok {
		return b
	}
	if len(l.buckets) >= l.most {
		l.forget(now)
	}
	if len(l.buckets) >= l.most {
		return &l.shared
	}
	b := &bucket{at: now}
	l.buckets[key] = b
	return b
}

// forget drops the keys that have all their tokens back.
func (l *Limiter) forget(now time.Time) {
	for key, b := range l.buckets {
		if l.refill(b, now); b.used == 0 {
			delete(l.buckets, key)
		}
	}
}

func (l *Limiter) refill(b *bucket, now time.Time) {
	if gone := now.Sub(b.at); gone > 0 {
		b.used = max(0, b.used-float64(gone)/float64(l.every))
		b.at = now
	}
}
