package client

import (
	"time"
)

// buildTime is a moment before which no cordon device can run. A clock that says less is wrong.
var buildTime = time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)

// clockFloor remembers a time and the TPM's clock at that moment. It lies in the state directory, so it is believed
// only as far as signed metadata bears it out: see now.
type clockFloor struct {
	Unix  int64  `json:"unix"`
	Clock uint64 `json:"clock"` // milliseconds of the TPM
}

// now is the device's time: the latest of build time, system clock, and the persisted floor advanced by the TPM's
// clock. The floor is never later than the end of the verified timestamp that it was recorded with, so editing it
// cannot make the device older than its newest metadata allows.
func (c *Client) now() time.Time {
	at := c.cfg.Now()
	if at.Before(buildTime) {
		at = buildTime
	}
	floor := c.state.Floor
	if floor.Unix <= 0 || c.trust == nil {
		return at
	}
	base := time.Unix(floor.Unix, 0)
	if end := c.trust.timestampEnd(); base.After(end) {
		return at
	}
	clock, err := c.cfg.TPM.Clock()
	if err == nil && clock.Clock > floor.Clock {
		base = base.Add(time.Duration(min(clock.Clock-floor.Clock, maxAdvance)) * time.Millisecond)
	}
	if base.After(at) {
		return base
	}
	return at
}

// clockRight reports whether nothing that was signed contradicts the system clock: it is not behind the device's time, and not
// after the end of the newest verified timestamp. Other programs of the device have that clock alone.
func (c *Client) clockRight() bool {
	at := c.cfg.Now()
	return !at.Before(c.now().Add(-clockSlack)) && !at.After(c.trust.timestampEnd())
}

// clockSlack is how far the TPM's clock may run ahead between two polls.
const clockSlack = time.Hour

// maxAdvance bounds how far the TPM clock moves a floor: ten years, in milliseconds.
const maxAdvance = 10 * 365 * 24 * 3600 * 1000

// recordTime keeps the device's time after a timestamp was verified at it.
func (c *Client) recordTime() {
	clock, err := c.cfg.TPM.Clock()
	if err != nil {
		return // the floor stays where it was
	}
	c.state.Floor = clockFloor{Unix: c.now().Unix(), Clock: clock.Clock}
}
