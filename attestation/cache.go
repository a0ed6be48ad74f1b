package attestation

import (
	"container/list"
	"crypto/sha256"
	"slices"
	"strings"
	"sync"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// perDevice is how many entries of a Cache one device can have made: those of its slots and a recovery system, and one more.
const perDevice = 4

// Cache remembers which boot states were affirmed, so that a device that proves the same state again costs one signature
// and not another reading of its log.
//
// An entry says that for a Standard, a log digest and a value of each quoted PCR nothing was found wrong, and which
// Expectation matched. It is made by this verifier alone, after everything was asked, for a quote that the device's key
// signed, over bytes with that log digest. Refusals are never remembered. What depends on the moment is asked every time:
// the whole first stage (key, signature, transcript, clock, registers) and whether a register changed within one boot.
//
// Nobody can put another answer into it: an entry is a function of its key. A device that makes up new states, which it
// can when it extends registers that nothing is expected of, pushes out its own entries only: one device has made at most
// four. Beyond the limit of the Cache the entry that was used longest ago goes.
//
// An entry takes about 400 bytes of memory, whatever the device sent. A Cache is safe for concurrent use and knows no
// clock. The zero value is not usable.
type Cache struct {
	limit int

	mu           sync.Mutex // guards all below
	entries      map[digest.SHA256]*list.Element
	recent       *list.List                 // of *entry, the one used last first
	made         map[string][]*list.Element // by the device that made them, oldest first
	hits, misses uint64
}

// entry is one affirmed state.
type entry struct {
	key     digest.SHA256
	matched int    // index in the Expected of the Standard
	device  string // whose quote made it
}

// NewCache makes a Cache of at most limit entries.
func NewCache(limit int) *Cache {
	return &Cache{limit: limit, entries: map[digest.SHA256]*list.Element{}, recent: list.New(), made: map[string][]*list.Element{}}
}

// Appraise gives the Verdict that Appraise gives for s.Hold(in), byte for byte, with the same errors. It differs in one
// thing: a state that is remembered needs no log. With Input.Log nil the Verdict is then the one with the log, because the
// quote commits to its digest; a log that is given is still held against that digest.
func (c *Cache) Appraise(s *Standard, in Input) (Verdict, error) {
	return (&appraisal{in: s.Hold(in)}).judge(rules[:], &recollection{cache: c, standard: s.digest})
}

// Counts is what a Cache has done: quotes whose state was remembered, quotes whose state had to be judged by the log, and
// how many entries there are.
type Counts struct {
	Hits, Misses uint64
	Entries      int
}

// Counts reads the counters.
func (c *Cache) Counts() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Counts{Hits: c.hits, Misses: c.misses, Entries: len(c.entries)}
}

// recollection is the memory of one appraisal.
type recollection struct {
	cache    *Cache
	standard digest.SHA256
	key      digest.SHA256 // set by recall
}

func (r *recollection) recall(in *Input) (matched int, ok bool) {
	r.key = stateKey(r.standard, in)
	if in.Log != nil && digest.Of(in.Log) != in.Evidence.LogDigest {
		return 0, false
	}
	matched, ok = r.cache.find(r.key)
	if !ok && in.Log != nil {
		r.cache.missed()
	}
	return matched, ok
}

func (r *recollection) remember(in *Input, matched int) {
	r.cache.add(entry{key: r.key, matched: matched, device: strings.Clone(in.Binding.Device)})
}

// stateKeyDomain is the first field of every key.
const stateKeyDomain = "cordon/state/v1"

// stateKey names everything that judging a state depends on: what the device is held to, the log, and which PCRs were
// quoted with which values. Every field has a fixed length but the last, the registers, which are one after the other.
func stateKey(standard digest.SHA256, in *Input) digest.SHA256 {
	const usual = len(stateKeyDomain) + 2*digest.Size + (highestPCR+1)*(1+digest.Size)
	b := append(make([]byte, 0, usual), stateKeyDomain...)
	b = append(b, standard[:]...)
	b = append(b, in.Evidence.LogDigest[:]...)
	for i := range in.Evidence.PCRs {
		p := &in.Evidence.PCRs[i]
		b = append(append(b, byte(p.Index)), p.Value[:]...)
	}
	return sha256.Sum256(b)
}

// find looks an entry up and makes it the one used last.
func (c *Cache) find(key digest.SHA256) (matched int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.entries[key]
	if !ok {
		return 0, false
	}
	c.hits++
	c.recent.MoveToFront(at)
	return at.Value.(*entry).matched, true
}

func (c *Cache) missed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.misses++
}

// add makes room and adds e. The device that made too many loses its oldest.
func (c *Cache) add(e entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, there := c.entries[e.key]; there || c.limit <= 0 {
		return
	}
	if own := c.made[e.device]; len(own) == perDevice {
		c.remove(own[0])
	}
	if len(c.entries) >= c.limit {
		c.remove(c.recent.Back())
	}
	at := c.recent.PushFront(&e)
	c.entries[e.key] = at
	c.made[e.device] = append(c.made[e.device], at)
}

func (c *Cache) remove(at *list.Element) {
	e := at.Value.(*entry)
	delete(c.entries, e.key)
	c.recent.Remove(at)
	own := slices.DeleteFunc(c.made[e.device], func(other *list.Element) bool { return other == at })
	if len(own) == 0 {
		delete(c.made, e.device)
		return
	}
	c.made[e.device] = own
}
