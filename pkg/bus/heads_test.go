package bus

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	p := pace{regular: 5 * time.Second}
	now := time.Now()
	for i, step := range []struct {
		round
		after time.Duration
		want  time.Duration
		polls bool
	}{
		{round{}, 0, 5 * time.Second, false},
		{round{moved: true}, 0, 5 * time.Second, false},
		{round{away: true}, 0, pollBusy, true},
		{round{away: true}, 0, 2 * pollBusy, true},
		{round{away: true}, 0, pollIdle, true},
		{round{away: true}, 0, pollIdle, true},
		{round{away: true, moved: true, lost: true}, 0, pollBusy, true},
		{round{}, 0, 5 * time.Second, false}, // it is back: what it lost while it was away says nothing of it
		{round{lost: true, moved: true}, 0, pollBusy, true},
		{round{}, distrust / 2, 2 * pollBusy, true},
		{round{lost: true}, 0, pollIdle, true},
		{round{}, distrust / 2, pollIdle, true},
		{round{}, distrust, 5 * time.Second, false},
	} {
		now = now.Add(step.after)
		if got, polls := p.next(step.round, now); got != step.want || polls != step.polls {
			t.Errorf("step %d: %s, %v, want %s, %v", i, got, polls, step.want, step.polls)
		}
	}
	p = pace{regular: time.Millisecond}
	if got, _ := p.next(round{away: true}, now); got != time.Millisecond {
		t.Errorf("slower than regularly: %s", got)
	}
}
