package sync

import (
	"context"
	"time"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/roomdb"
	"hanse/pkg/view"
)

// format is how the poll's device sees events.
func (p *asker) format() view.Format {
	return view.Format{User: p.who.User, Device: p.device, Now: time.Now()}
}

// appendTold appends events as the filter wants them.
func (s *Service) appendTold(ctx context.Context, p *poll, b []byte, events []*roomdb.Event, bundles view.Bundles) ([]byte, error) {
	f := p.filter
	format := p.format()
	format.Bundles = bundles
	if f.EventFormat != formatFederation && len(f.EventFields) == 0 {
		return view.Append(ctx, s.rooms, format, b, events)
	}
	var out [][]byte
	if f.EventFormat == formatFederation {
		out = make([][]byte, len(events))
		for i, e := range events {
			out[i] = e.JSON
		}
	} else {
		var err error
		if out, err = view.Render(ctx, s.rooms, format, events); err != nil {
			return nil, err
		}
	}
	out, err := f.prune(out)
	if err != nil {
		return nil, err
	}
	return appendItems(b, out), nil
}

// write writes a joined or left room.
func (s *Service) write(ctx context.Context, p *poll, v *roomView) ([]byte, error) {
	size := v.size()
	for _, events := range [][]*roomdb.Event{v.timeline, v.state} {
		for _, e := range events {
			size += len(e.Content) + 400
		}
	}
	b, err := s.appendTold(ctx, p, v.begin(make([]byte, 0, size)), v.timeline, v.bundles)
	if err != nil {
		return nil, err
	}
	b = v.between(b, p)
	start := len(b)
	if b, err = s.appendTold(ctx, p, b, v.state, nil); err != nil {
		return nil, err
	}
	v.rest = rest{room: v, at: len(b), more: len(b) > start}
	return v.end(b), nil
}

// size is about how many bytes the room takes besides its events.
func (v *roomView) size() int {
	size := 600
	for _, list := range [][][]byte{v.ephemeral, v.data} {
		for _, e := range list {
			size += len(e) + 1
		}
	}
	return size
}

// begin appends what comes before the events of the timeline.
func (v *roomView) begin(b []byte) []byte { return append(b, `{"timeline":{"events":[`...) }

// between appends what comes between the events of the timeline and those of the state.
func (v *roomView) between(b []byte, p *poll) []byte {
	if v.limited {
		b = append(b, `],"limited":true`...)
	} else {
		b = append(b, `],"limited":false`...)
	}
	b = append(b, `,"prev_batch":`...)
	b = canonjson.AppendString(b, v.prevBatch.Token())
	b = append(append(b, `},"`...), p.stateName()...)
	return append(b, `":{"events":[`...)
}

// stateName is the member that has the state: unstableStateAfter for clients that ask for it by its name in MSC4222.
func (p *poll) stateName() string {
	switch {
	case !p.stateAfter:
		return "state"
	case p.unstable:
		return unstableStateAfter
	}
	return "state_after"
}

const unstableStateAfter = "org.matrix.msc4222.state_after"

// end appends what comes behind the events of the state.
func (v *roomView) end(b []byte) []byte {
	b = append(b, `]}`...)
	b = appendEvents(b, "account_data", v.data)
	if v.r.Membership == "join" {
		b = append(b, `,"ephemeral":{"events":[`...) // also an empty list, as Synapse: there are clients that do not do without
		b = append(appendItems(b, v.ephemeral), `]}`...)
		if v.summary != nil {
			b = append(b, `,"summary":`...)
			b = v.summary.append(b)
		}
		if v.unread != nil {
			b = v.unread.append(b)
		}
	}
	return append(b, '}')
}
