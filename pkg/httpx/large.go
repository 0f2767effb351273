package httpx

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/merr"
)

const (
	// largeAnswers is how many large answers of a worker are under way at once, largeWait how long others wait, and largeSteps
	// how many of them make a step at the same time.
	largeAnswers, largeSteps = 32, 2
	largeWait                = 30 * time.Second
)

// Large bounds answers with hundreds of thousands of elements, which are made step by step and sent meanwhile (Stream). Each
// holds some megabytes for as long as its client takes; the steps take turns, so that they leave processors and connections
// to the database to others, and a slow client keeps nobody waiting.
type Large struct{ answers, steps chan struct{} }

// NewLarge returns the bounds of an API, with its metric if there is a registerer.
func NewLarge(api string, reg prometheus.Registerer) *Large {
	l := &Large{answers: make(chan struct{}, largeAnswers), steps: make(chan struct{}, largeSteps)}
	if reg != nil {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "hanse_large_answers", Help: "Answers with the state of a large room that are made and sent.",
			ConstLabels: prometheus.Labels{"api": api},
		}, func() float64 { return float64(l.Len()) }))
	}
	return l
}

// Len returns how many answers are under way.
func (l *Large) Len() int { return len(l.answers) }

// Begin waits for a place for one more answer, until leave is called: half a minute at most, after which clients are told
// to come again.
func (l *Large) Begin(ctx context.Context) (leave func(), err error) {
	timer := time.NewTimer(largeWait)
	defer timer.Stop()
	select {
	case l.answers <- struct{}{}:
		return func() { <-l.answers }, nil
	case <-timer.C:
		return nil, merr.Unavailable("too many large answers are under way")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Step waits for a turn to make a step of an answer, until done is called.
func (l *Large) Step(ctx context.Context) (done func(), err error) {
	select {
	case l.steps <- struct{}{}:
		return func() { <-l.steps }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
