package room

import (
	"context"
	"errors"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"hanse/pkg/matrix/id"
	federationv1 "hanse/proto/federation/v1"
	roomv1 "hanse/proto/room/v1"
)

// flood is servers each of which sends megabyte after megabyte, and stops before the last one until it may go on.
type flood struct {
	federationv1.FedOutClient
	megabytes int
	goOn      chan struct{}
	large     atomic.Int32 // answers that are all read but for the last part
}

type flooding struct {
	*flood
	answer
	sent int
}

func (f *flood) Do(context.Context, *federationv1.DoRequest, ...grpc.CallOption) (grpc.ServerStreamingClient[federationv1.DoResponse], error) {
	return &flooding{flood: f}, nil
}

func (f *flooding) Recv() (*federationv1.DoResponse, error) {
	switch f.sent++; {
	case f.sent == f.megabytes:
		f.large.Add(1)
		<-f.goOn
	case f.sent > f.megabytes:
		return f.answer.Recv()
	}
	return &federationv1.DoResponse{Status: 200, Chunk: make([]byte, 1<<20)}, nil
}

// Of answers that become large some are held at a time, whatever they are the answers to; the others come after them.
func TestLargeAnswersAreBounded(t *testing.T) {
	const all = largeAnswers + 3
	for name, c := range map[string]struct{ megabytes, most int32 }{"large": {freeAnswer>>20 + 2, largeAnswers}, "small": {freeAnswer >> 20, all}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &flood{megabytes: int(c.megabytes), goOn: make(chan struct{})}
				s := &Service{fedout: f, large: make(chan struct{}, largeAnswers)}
				done := make(chan error, all)
				for i := range all {
					go func() {
						ctx, leave := s.withSlot(t.Context())
						defer leave()
						if i%2 == 0 {
							_, err := s.fetchAuth(ctx, one, two, "!r:one.test", "$e")
							done <- err
							return
						}
						_, _, err := s.fetchState(ctx, one, two, "!r:one.test", "$e")
						done <- err
					}()
				}
				synctest.Wait()
				if n := f.large.Load(); n != c.most {
					t.Errorf("%d answers are held at a time, not %d", n, c.most)
				}
				close(f.goOn)
				for range all {
					if err := <-done; err == nil || errors.Is(err, errUnanswered) || retry(err) { // zeros are no JSON
						t.Error(err)
					}
				}
				synctest.Wait() // slots are left after the answers
				if len(s.large) != 0 {
					t.Errorf("%d slots are held afterwards", len(s.large))
				}
			})
		})
	}
}

// Who gets no slot in time comes again: nothing is known of the event then.
func TestLargeAnswersTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flood{megabytes: freeAnswer>>20 + 2, goOn: make(chan struct{})}
		s := &Service{fedout: f, large: make(chan struct{}, 1)}
		s.large <- struct{}{}
		ctx, leave := s.withSlot(t.Context())
		defer leave()
		if _, err := s.fetchAuth(ctx, one, two, "!r:one.test", "$e"); !retry(err) {
			t.Errorf("without a slot: %v", err)
		}
		if nested, _ := s.withSlot(ctx); slotOf(nested) != slotOf(ctx) {
			t.Error("a second slot is waited for")
		}
	})
}

// A server whose answers trickle in is given up also where the answer is read as a whole.
func TestTrickleOfAWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Service{fedout: &trickle{every: time.Second, part: 1000, parts: 10_000}, large: make(chan struct{}, 1)}
		start := time.Now()
		if _, _, err := s.fetchState(t.Context(), one, two, "!r:one.test", "$e"); !errors.Is(err, errTrickles) || !errors.Is(err, errUnanswered) {
			t.Error(err)
		}
		if took := time.Since(start); took > progressIn+5*time.Second {
			t.Errorf("after %v", took)
		}
	})
}

// A server that lets as many rooms as there are slots wait for states does not keep other rooms from getting theirs.
func TestSlowStates(t *testing.T) {
	h := newHostile(t, "11")
	ok := must[*roomv1.SendResponse](t)
	last := ok(h.b.say(h.room, bert, "is missing"))
	event2 := ok(h.b.say(h.room, bert, "follows it")).EventIds[0]
	missing := id.Event(last.EventIds[0])
	release := make(chan struct{})
	held := make(chan struct{}, largeAnswers)
	h.n.lie(map[string]func([]string, url.Values) any{
		"get_missing_events": lists(map[string][]id.Event{"events": {}}),
		"state_ids": func(args []string, _ url.Values) any {
			if args[0] == h.room {
				return nil
			}
			held <- struct{}{}
			<-release
			return map[string]any{"pdu_ids": []any{}, "auth_chain_ids": []any{}}
		},
	})
	done := make(chan string, largeAnswers)
	for range largeAnswers {
		room := h.a.create("11", anna, "public")
		ok(h.b.join(room, bert, string(one)))
		d := draftOn(h.b, room, h.b.last(room))
		d.PrevEvents = []id.Event{unknownEvent(1)}
		pdu := h.b.build(d, h.on.PDU)
		go func() { done <- h.a.receive(room, two, pdu.JSON)[0].Error }()
	}
	for range largeAnswers {
		<-held
	}
	h.a.take(h.room, two, h.b.event(h.room, id.Event(event2)).PDU)
	if e := h.a.event(h.room, id.Event(event2)); e.Flags != 0 || h.a.event(h.room, missing).Flags&flagOutlier == 0 {
		t.Errorf("flags %d", e.Flags)
	}
	close(release)
	for range largeAnswers {
		if <-done == "" {
			t.Error("an event without a state was taken")
		}
	}
}
