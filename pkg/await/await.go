// Package await lets tests wait for what has no signal to wait on: a condition is checked at once, and then again and
// again until it holds or time is up. Where there is a signal (a channel, an answer, a position) wait on that instead.
package await

import (
	"errors"
	"testing"
	"time"
)

// The time between two checks grows from first to longest: what comes soon is seen soon, and what takes long is not
// disturbed.
const (
	first   = time.Millisecond
	longest = 50 * time.Millisecond
)

// Nil repeats a check until it returns nil. After the given time the test ends with what the check said last; it ends at
// once if the test's context does.
func Nil(t testing.TB, patience time.Duration, what string, check func() error) {
	t.Helper()
	end := time.NewTimer(patience)
	defer end.Stop()
	for pause := first; ; pause = min(2*pause, longest) {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-time.After(pause):
		case <-end.C:
			t.Fatalf("%s: not within %s: %v", what, patience, err)
		case <-t.Context().Done():
			t.Fatalf("%s: the test is over: %v", what, err)
		}
	}
}

var errNot = errors.New("it is not so")

// True repeats a check until it returns true; otherwise it is [Nil].
func True(t testing.TB, patience time.Duration, what string, check func() bool) {
	t.Helper()
	Nil(t, patience, what, func() error {
		if !check() {
			return errNot
		}
		return nil
	})
}
