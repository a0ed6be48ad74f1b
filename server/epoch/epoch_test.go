package epoch_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/server/epoch"
)

var taken = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func TestNumbersOfALaterRestoreLieAboveThoseOfAnEarlierOne(t *testing.T) {
	t.Parallel()
	at := func(before epoch.State, now time.Time) epoch.State {
		t.Helper()
		e, err := epoch.Next(before, taken, now)
		if err != nil {
			t.Fatal(err)
		}
		return epoch.State{Epoch: e}
	}
	first := at(epoch.State{}, taken.Add(time.Hour))
	// The second one uses the same backup, so it does not know of the first.
	second := at(epoch.State{}, taken.Add(time.Hour+time.Minute))
	if issued := first.Floor() + 60<<20 - 1; second.Floor() < issued {
		t.Errorf("a million numbers a second reach %d, the next restore starts at %d", issued, second.Floor())
	}
	again := at(second, taken.Add(time.Hour+time.Minute)) // a backup of the restored server, restored in the same second
	if again.Floor() <= second.Floor() {
		t.Errorf("got floor %d after %d", again.Floor(), second.Floor())
	}
	if late := at(epoch.State{}, time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)); late.Floor() >= 1<<53 {
		t.Errorf("floor %d is beyond what JavaScript counts exactly", late.Floor())
	}
}

func TestRefusesAClockBehindTheBackup(t *testing.T) {
	t.Parallel()
	if _, err := epoch.Next(epoch.State{}, taken, taken.Add(-time.Second)); !errors.Is(err, epoch.ErrClock) {
		t.Errorf("got %v, want ErrClock", err)
	}
}

func TestSecretsOfAnEpochAreItsOwn(t *testing.T) {
	t.Parallel()
	secret := bytes.Repeat([]byte{7}, 32)
	never, one, two := epoch.State{}.Secret(secret), epoch.State{Epoch: 1}.Secret(secret), epoch.State{Epoch: 2}.Secret(secret)
	if !bytes.Equal(never, secret) {
		t.Error("without a restore the secret is another one")
	}
	if bytes.Equal(one, secret) || bytes.Equal(one, two) || len(one) != 32 {
		t.Error("a restore keeps the secret")
	}
}
