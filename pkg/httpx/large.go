package httpx

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/admission"
	"hanse/pkg/merr"
)

const (
	// largeAnswers is how many large answers of a worker are under way at once, largeEach how many of them one user has,
	// largeWait how long others wait, and largeSteps how many of them make a step at the same time.
	largeAnswers, largeEach, largeSteps = 32, 4, 2
	largeWait                           = 30 * time.Second
)

// Large bounds answers with hundreds of thousands of elements, which are made step by step and sent meanwhile (Stream). Each
// holds some megabytes for as long as its client takes; the steps take turns, so that they leave processors and connections
// to the database to others, and a slow client keeps nobody waiting but its own user.
type Large struct {
	answers *admission.Pool
	steps   chan struct{}
}

// NewLarge returns the bounds of an API, with its metric if there is a registerer.
func NewLarge(api string, reg prometheus.Registerer) *Large {
	l := &Large{steps: make(chan struct{}, largeSteps), answers: admission.New(admission.Config{
		Name: "large_" + api, Limits: map[string]int64{"answers": largeAnswers, "user": largeEach}, Registerer: reg})}
	if reg != nil {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "hanse_large_answers", Help: "Answers with the state of a large room that are made and sent.",
			ConstLabels: prometheus.Labels{"api": api},
		}, func() float64 { return float64(l.Len()) }))
	}
	return l
}

// Len returns how many answers are under way.
func (l *Large) Len() int { return int(l.answers.Held("answers")) }

// Begin waits for a place for one more answer of a user, until leave is called: half a minute at most, after which clients
// are told to come again.
func (l *Large) Begin(ctx context.Context, user string) (leave func(), err error) {
	wait, cancel := context.WithTimeout(ctx, largeWait)
	defer cancel()
	e := l.answers.Enter(nil, admission.Name{Kind: "answers"}, admission.Name{Kind: "user", Key: user})
	if err := e.Settle(); err != nil {
		return nil, err
	}
	if err := e.Wait(wait, 1); err != nil {
		e.Release()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, merr.Unavailable("too many large answers are under way").WithCause(err)
	}
	return e.Release, nil
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
