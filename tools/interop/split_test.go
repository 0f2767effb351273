//go:build interop

package interop

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"hanse/tools/mxclient"
)

// errParted says that a server has nobody in the room any more. It hears no more of it then, so nothing is left to compare.
var errParted = errors.New("nobody of the server is in the room")

// agree says in what the states of both servers differ; nil if they are the same.
func (f *fork) agree(ctx context.Context) error {
	here, there, err := f.witnesses(ctx)
	if err != nil {
		return err
	}
	return agree(ctx, f.room, here, there)
}

// witnesses are members of both servers, by what these say: others see the room as they left it.
func (f *fork) witnesses(ctx context.Context) (here, there *person, err error) {
	if here, err = f.witness(ctx, f.boss, f.aide, f.clerk, f.stray); err != nil {
		return nil, nil, err
	}
	there, err = f.witness(ctx, f.guest, f.friend, f.rival, f.waif)
	return here, there, err
}

func (f *fork) witness(ctx context.Context, from ...*person) (*person, error) {
	for _, p := range from {
		var c struct{ Membership string }
		err := p.StateContent(ctx, f.room, "m.room.member", p.id, &c)
		if err != nil && !mxclient.IsCode(err, "M_FORBIDDEN") && !mxclient.IsCode(err, "M_NOT_FOUND") {
			return nil, err
		}
		if c.Membership == "join" {
			return p, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", from[0].server.name, errParted)
}

// rounds is how often both sides speak, at most, until they must agree. Until a message stands upon all that both know, what
// one of them soft-failed can set them apart: each knows other ends of the room.
const rounds = 8

// settle lets both sides speak until each knows the other's words and the states are the same.
func (f *fork) settle(ctx context.Context) error {
	var err error
	for range rounds {
		said := make(map[string]server)
		for _, side := range [][]*person{{f.boss, f.aide, f.clerk, f.stray}, {f.guest, f.friend, f.rival, f.waif}} {
			for _, p := range side {
				e, err := p.SendText(ctx, f.room, fmt.Sprintf("txn%d", everybody.Add(1)), "together again")
				if err == nil {
					f.add(p, e, "together again")
					said[e] = p.server
					break
				}
			}
		}
		if err = within(15*time.Second, func() error { return f.heard(ctx, said) }); err != nil {
			if _, _, out := f.witnesses(ctx); errors.Is(out, errParted) {
				return out
			}
			continue
		}
		if err = within(2*time.Second, func() error { return f.agree(ctx) }); err == nil {
			return nil
		}
	}
	return err
}

// sentFrom returns the events that people of a server sent.
func (f *fork) sentFrom(on server) map[string]server {
	sent := make(map[string]server)
	for _, e := range f.sent {
		if f.what[e].by.server.name == on.name {
			sent[e] = on
		}
	}
	return sent
}

// heard says which of the words the other side has no verdict about.
func (f *fork) heard(ctx context.Context, said map[string]server) error {
	for _, side := range []server{f.boss.server, f.guest.server} {
		got, err := verdictsOn(ctx, side, slices.Collect(maps.Keys(said)))
		if err != nil {
			return err
		}
		for e, from := range said {
			if got[e] == "" {
				return fmt.Errorf("%s of %s is not on %s", e, from.name, side.name)
			}
		}
	}
	return nil
}

// judged holds what both made of the events against each other. An event may be soft-failed on one side, and not by who sent
// it: that is judged by the state that a server has when it comes. All else must be the same.
func (f *fork) judged(ctx context.Context) (soft int, err error) {
	here, err := verdictsOn(ctx, f.boss.server, f.sent)
	if err != nil {
		return 0, err
	}
	there, err := verdictsOn(ctx, f.guest.server, f.sent)
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, e := range f.sent {
		x, y := here[e], there[e]
		if f.what[e].by.server.name == f.guest.server.name {
			x, y = y, x
		}
		switch {
		case x == accepted && y == softFailed:
			soft++
		case x != accepted || y != accepted:
			errs = append(errs, fmt.Errorf("%s: %q by its own server, %q by the other", f.describe(e), x, y))
		}
	}
	return soft, errors.Join(errs...)
}

// stateAt reads the state after an event (client-server API, GET /rooms/{roomId}/context/{eventId}).
func (p *person) stateAt(ctx context.Context, room, event string) (map[string]string, error) {
	var out struct{ State []mxclient.Event }
	err := p.Do(ctx, mxclient.Call{Method: "GET", Path: "/_matrix/client/v3/rooms/" + url.PathEscape(room) + "/context/" + url.PathEscape(event),
		Query: url.Values{"limit": {"0"}}, Out: &out})
	if err != nil {
		return nil, err
	}
	return idsByKey(out.State), nil
}

// remembered compares the state at each event that both accepted.
func (f *fork) remembered(ctx context.Context) error {
	here, err := verdictsOn(ctx, f.boss.server, f.sent)
	if err != nil {
		return err
	}
	there, err := verdictsOn(ctx, f.guest.server, f.sent)
	if err != nil {
		return err
	}
	one, another, err := f.witnesses(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range f.sent {
		if here[e] != accepted || there[e] != accepted || f.what[e].what == redaction {
			continue
		}
		x, err := one.stateAt(ctx, f.room, e)
		if err != nil {
			return fmt.Errorf("state at %s on %s: %w", e, f.boss.server.name, err)
		}
		y, err := another.stateAt(ctx, f.room, e)
		if err != nil {
			return fmt.Errorf("state at %s on %s: %w", e, f.guest.server.name, err)
		}
		if err := differ(f.boss.server, f.guest.server, x, y); err != nil {
			errs = append(errs, fmt.Errorf("at %s: %w", f.describe(e), err))
		}
	}
	return errors.Join(errs...)
}

// redaction is what redactions are noted as. One whose target the server has soft-failed is accepted, but Synapse does not
// show it (room version 3, "Handling redactions").
const redaction = "redaction"

// read holds what members read of the room against what their servers made of its messages.
func (f *fork) read(ctx context.Context) error {
	one, another, err := f.witnesses(ctx)
	if err != nil {
		return err
	}
	for _, p := range []*person{one, another} {
		verdicts, err := verdictsOn(ctx, p.server, f.sent)
		if err != nil {
			return err
		}
		history, err := p.History(ctx, f.room, "", nil)
		if err != nil {
			return err
		}
		shown := make(map[string]bool)
		for _, e := range history {
			shown[e.EventID] = true
		}
		for _, e := range f.sent {
			if shown[e] != (verdicts[e] == accepted) && f.what[e].what != redaction {
				return fmt.Errorf("%s is %q on %s: shown %v", f.describe(e), verdicts[e], p.server.name, shown[e])
			}
		}
	}
	return nil
}

// atOnce is how many forks are worked upon at a time.
const atOnce = 8

// each does something with all forks with which all went well, some at a time.
func each(forks []*fork, do func(f *fork)) {
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, f := range forks {
		if len(f.errs) == 0 && !f.parted {
			g.Go(func() error { do(f); return nil })
		}
	}
	_ = g.Wait() // what went wrong is noted
}

// openAll makes the rooms, and what of them comes before their first split.
func openAll(t *testing.T, forks []*fork, before func(f *fork)) {
	each(forks, func(f *fork) {
		f.note("open", f.open(t.Context()))
		if len(f.errs) == 0 {
			before(f)
			f.note("before the split", within(patience, func() error { return f.agree(t.Context()) }))
		}
	})
}

// split cuts the servers apart, lets the rooms be written to on both sides, and brings the servers together again.
func split(t *testing.T, forks []*fork, apart, after func(f *fork)) {
	cut(t)
	each(forks, apart)
	heal(t)
	each(forks, func(f *fork) {
		after(f)
		err := f.settle(t.Context())
		if f.parted = errors.Is(err, errParted); !f.parted {
			f.note("after the split", err)
		}
	})
}

// check holds the servers' views of the room against each other, once they have settled.
func (f *fork) check(t *testing.T) {
	if f.parted {
		t.Logf("%s: one server has left the room", f.room)
	}
	err := errors.Join(f.errs...)
	soft := 0
	switch {
	case err != nil: // where the states part tells more than that they did
		err = errors.Join(err, f.remembered(t.Context()))
	case !f.parted:
		if f.gaps { // reading fills them
			eventually(t, "history on both", func() error { return f.read(t.Context()) })
		}
		var judged error
		soft, judged = f.judged(t.Context())
		err = errors.Join(judged, f.remembered(t.Context()), f.read(t.Context()))
	}
	if err != nil {
		t.Errorf("%s: %v\n%s", f.room, err, f.dump(t.Context()))
	}
	if soft > 0 {
		t.Logf("%d of %d events soft-failed", soft, len(f.sent))
	}
}
