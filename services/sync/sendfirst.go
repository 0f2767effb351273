package sync

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/admission"
	"hanse/pkg/httpx"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/merr"
)

// A first answer tells all rooms of a user, and may have hundreds of megabytes. It is never in memory as a whole: rooms are
// read and sent some at a time, and what is held meanwhile is charged to a budget that all first answers of a worker share.
// Whoever does not read what was asked for holds one step of an answer.

const (
	// firstCost is what a first answer is charged for before it is known what it holds, in bytes.
	firstCost = 4 << 20
	// firstEach is how many of them one user has at a time; others of the same user wait.
	firstEach = 4
	// firstWait is how long an answer waits for its turn.
	firstWait = 30 * time.Second
	// firstRooms is how many rooms are read at a time, and wholeRooms how many if their members are told, too.
	firstRooms, wholeRooms = 100, 10
)

func newFirsts(budget int64, reg prometheus.Registerer) *admission.Pool {
	return admission.New(admission.Config{Name: "first_syncs", Registerer: reg,
		Limits: map[string]int64{"answers": budget, "user": firstEach * firstCost}})
}

// beginFirst waits until there is room for an answer that tells all rooms.
func (s *Service) beginFirst(ctx context.Context, p *poll) error {
	if p.since != nil && !p.fullState {
		return nil
	}
	p.held = s.firsts.Enter(nil, admission.Name{Kind: "answers"}, admission.Name{Kind: "user", Key: string(p.who.User)})
	if err := p.held.Settle(); err != nil { // it cannot make room for others
		return err
	}
	wait, cancel := context.WithTimeout(ctx, firstWait)
	defer cancel()
	if err := p.held.Wait(wait, firstCost); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return merr.LimitExceeded(5000).WithCause(err)
	}
	return nil
}

// sendFirst answers a first poll.
func (s *Service) sendFirst(ctx context.Context, w http.ResponseWriter, p *poll, a *answer) error {
	buffer := buffers.Get().(*[]byte)
	defer func() { recycle(buffer) }()
	stream := httpx.NewStream(w)
	stream.B = (*buffer)[:0]
	err := stream.Send(func() error {
		stream.B = append(a.appendHead(stream.B), `,"rooms":{"join":{`...)
		if err := s.sendLater(ctx, stream, p, a); err != nil {
			return err
		}
		for _, list := range []struct {
			name  string
			rooms []roomAnswer
		}{{"invite", a.invite}, {"knock", a.knock}, {"leave", a.leave}} {
			if len(list.rooms) == 0 {
				continue
			}
			stream.B = append(append(append(stream.B, `},"`...), list.name...), `":{`...)
			if err := s.sendRooms(ctx, stream, p, list.rooms, false); err != nil {
				return err
			}
		}
		stream.B = append(stream.B, "}}}"...)
		return nil
	})
	*buffer = stream.B
	return err
}

// sendLater reads and sends the rooms that the user is in.
func (s *Service) sendLater(ctx context.Context, stream *httpx.Stream, p *poll, a *answer) error {
	step := wholeRooms
	if p.filter.Room.State.LazyLoadMembers {
		step = firstRooms
	}
	more := false
	for rooms := range slices.Chunk(a.later, step) {
		part := &answer{user: a.user}
		if err := s.addWhole(ctx, part, p, a.moment, rooms); err != nil {
			return err
		}
		var size int64
		for i := range part.join {
			size += int64(part.join[i].size())
		}
		p.charge(size)
		if err := s.sendRooms(ctx, stream, p, part.join, more); err != nil {
			return err
		}
		p.charge(-size)
		more = more || len(part.join) > 0
	}
	return nil
}

// charge counts what a step of the answer holds.
func (p *poll) charge(n int64) {
	switch {
	case p.held == nil: // in tests
	case n < 0:
		p.held.Free(-n)
	default:
		p.held.Force(n)
	}
}

// sendRooms sends rooms. more says that there are others before them already.
func (s *Service) sendRooms(ctx context.Context, stream *httpx.Stream, p *poll, rooms []roomAnswer, more bool) error {
	for i := range rooms {
		r := &rooms[i]
		if more || i > 0 {
			stream.B = append(stream.B, ',')
		}
		stream.B = append(canonjson.AppendString(stream.B, string(r.id)), ':')
		if r.rest == nil {
			stream.B = r.append(stream.B)
		} else {
			stream.B = append(stream.B, r.json[:r.rest.at]...)
			if err := s.sendRest(ctx, stream, p, *r.rest); err != nil {
				return err
			}
			stream.B = append(stream.B, r.json[r.rest.at:]...)
		}
		if err := stream.Flow(); err != nil {
			return err
		}
	}
	return nil
}
