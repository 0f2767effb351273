package fedout

import "context"

// manyServers is from how many servers on what is sent to them counts as being for many.
const manyServers = 100

// slots bounds the transactions on their way. Patient ones, those that have nothing but what goes to many servers or what
// comes late anyway, have three quarters of the slots. A message in a room of thousands of servers takes all of these for a
// while; what is said in other rooms has the rest meanwhile.
type slots struct{ all, patient chan struct{} }

func newSlots(n int) *slots {
	return &slots{all: make(chan struct{}, n), patient: make(chan struct{}, max(1, n*3/4))}
}

// enter waits for a slot; leave gives it back.
func (s *slots) enter(ctx context.Context, patient bool) (leave func(), err error) {
	if !patient {
		return func() { <-s.all }, take(ctx, s.all)
	}
	if err := take(ctx, s.patient); err != nil {
		return nil, err
	}
	if err := take(ctx, s.all); err != nil {
		<-s.patient
		return nil, err
	}
	return func() { <-s.all; <-s.patient }, nil
}

func take(ctx context.Context, from chan struct{}) error {
	select {
	case from <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
