package appservice

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"hanse/pkg/deadletter"
	"hanse/pkg/matrix/id"
	"hanse/pkg/node"
	"hanse/pkg/roomdb"
	"hanse/pkg/view"
)

// draft is a transaction that is being made.
type draft struct {
	// items are the first that wait: of what was missed, or of the queue since it was dropped last.
	items  []*item
	missed bool
	epoch  int
	at     []int64 // where the service stands with them

	heard    [][]byte
	messages []message
	keys     map[deviceKey]keyState
}

func (d *draft) empty() bool {
	return len(d.items) == 0 && len(d.heard) == 0 && len(d.messages) == 0 && len(d.keys) == 0
}

// cut leaves the first items of a draft.
func (d *draft) cut(n int) {
	d.at = before(d.at, d.items[n:])
	d.items = d.items[:n]
}

// since is when the oldest thing in the draft came.
func (d *draft) since() time.Time {
	var oldest time.Time
	for _, it := range d.items {
		if oldest.IsZero() || it.came.Before(oldest) {
			oldest = it.came
		}
	}
	return oldest
}

// collect takes what the next transaction is made of; nil if nothing waits.
func (s *stream) collect() (*draft, error) {
	s.mu.Lock()
	behind := s.behind
	s.mu.Unlock()
	d := new(draft)
	if behind {
		missed, err := s.collectMissed()
		if err != nil {
			return nil, err
		}
		if missed != nil {
			d = missed
		}
	}
	s.mu.Lock()
	if len(d.items) == 0 {
		if n := s.fits(s.queue); n > 0 && !s.behind {
			d = &draft{items: slices.Clone(s.queue[:n]), epoch: s.epoch, at: through(s.reached(s.queue[n:]), s.queue[:n])}
		} else {
			d = &draft{epoch: s.epoch, at: slices.Clone(s.pos)}
		}
	}
	for _, about := range slices.Sorted(maps.Keys(s.heard)) {
		d.heard = append(d.heard, s.heard[about])
	}
	clear(s.heard)
	s.mu.Unlock()
	if err := s.collectDevices(s.going, d); err != nil {
		return nil, err
	}
	if d.empty() {
		return nil, nil
	}
	return d, nil
}

// fits returns how many of some items go into one transaction.
func (s *stream) fits(items []*item) int {
	cfg := &s.b.s.cfg
	events, others, size := 0, 0, int64(0)
	for n, it := range items {
		if it.entry.GetEvent() != nil {
			events++
		} else {
			others++
		}
		if size += it.size; events > cfg.Events || others > cfg.Events || size > int64(cfg.Bytes) && n > 0 {
			return n
		}
	}
	return len(items)
}

// render writes the body of a transaction. A draft that turns out to be too large loses its end.
func (s *stream) render(d *draft) ([]byte, error) {
	now := time.Now()
	for {
		body, err := s.bodyOf(s.going, d, now)
		if err != nil || len(body) <= s.b.s.cfg.Bytes || len(d.items) < 2 {
			return body, err
		}
		d.cut(len(d.items) / 2)
	}
}

func (s *stream) bodyOf(ctx context.Context, d *draft, now time.Time) ([]byte, error) {
	body := []byte(`{"events":[`)
	events, err := s.events(ctx, d.items)
	if err != nil {
		return nil, err
	}
	if body, err = s.appendEvents(ctx, body, events, now); err != nil {
		return nil, err
	}
	body = append(body, ']')
	told, err := receipts(d.items)
	if err != nil {
		return nil, err
	}
	if ephemeral := slices.Concat(told, d.heard); len(ephemeral) > 0 {
		body = appendMember(body, append(append([]byte{'['}, bytes.Join(ephemeral, []byte{','})...), ']'), "ephemeral", "de.sorunome.msc2409.ephemeral")
	}
	if body, err = d.appendDevices(body); err != nil {
		return nil, err
	}
	return append(body, '}'), nil
}

// appendMember appends a member under its name and those that services know from its proposal.
func appendMember(b, value []byte, names ...string) []byte {
	for _, name := range names {
		b = append(append(append(b, `,"`...), name...), `":`...)
		b = append(b, value...)
	}
	return b
}

// appendDevices appends to-device messages (MSC4203), and what encryption needs (MSC3202).
func (d *draft) appendDevices(b []byte) ([]byte, error) {
	if len(d.messages) > 0 {
		type toDevice struct {
			Type    string          `json:"type"`
			Sender  string          `json:"sender"`
			Content json.RawMessage `json:"content"`
			User    id.User         `json:"to_user_id"`
			Device  string          `json:"to_device_id"`
		}
		list := make([]toDevice, len(d.messages))
		for i, m := range d.messages {
			list[i] = toDevice{m.typ, m.sender, m.content, m.user, m.device}
		}
		text, err := json.Marshal(list)
		if err != nil {
			return nil, err
		}
		b = appendMember(b, text, "to_device", "de.sorunome.msc2409.to_device")
	}
	changed := make(map[string]struct{})
	for _, it := range d.items {
		if c := it.entry.GetDeviceChange(); c != nil {
			changed[c.UserId] = struct{}{}
		}
	}
	if len(changed) > 0 {
		text, err := json.Marshal(map[string][]string{"changed": slices.Sorted(maps.Keys(changed)), "left": {}})
		if err != nil {
			return nil, err
		}
		b = appendMember(b, text, "device_lists", "org.matrix.msc3202.device_lists")
	}
	if len(d.keys) == 0 {
		return b, nil
	}
	counts, fallbacks := make(map[id.User]map[string]json.RawMessage), make(map[id.User]map[string]json.RawMessage)
	for k, state := range d.keys {
		if counts[k.user] == nil {
			counts[k.user], fallbacks[k.user] = make(map[string]json.RawMessage), make(map[string]json.RawMessage)
		}
		counts[k.user][k.device], fallbacks[k.user][k.device] = state.counts, state.fallbacks
	}
	text, err := json.Marshal(counts)
	if err != nil {
		return nil, err
	}
	b = appendMember(b, text, "device_one_time_keys_count", "org.matrix.msc3202.device_one_time_keys_count", "org.matrix.msc3202.device_one_time_key_counts")
	if text, err = json.Marshal(fallbacks); err != nil {
		return nil, err
	}
	return appendMember(b, text, "device_unused_fallback_key_types", "org.matrix.msc3202.device_unused_fallback_key_types"), nil
}

// events parses the events among some items. One that cannot be read becomes a dead letter: nothing waits for it.
func (s *stream) events(ctx context.Context, items []*item) ([]*roomdb.Event, error) {
	var events []*roomdb.Event
	for _, it := range items {
		if it.entry.GetEvent() == nil {
			continue
		}
		e, err := roomdb.FromLog(it.logPart, it.entry)
		if err != nil {
			if err := deadletter.Put(ctx, s.b.s.shards, it.logPart, node.RoleAppservice, it.pos, err); err != nil {
				return nil, err
			}
			s.b.s.log.Error("event went to the dead letters", "service", s.id, "part", it.logPart, "pos", it.pos, "err", err)
			continue
		}
		events = append(events, e)
	}
	return events, nil
}

// appendEvents appends events in the client format, with commas between them. Those of a log partition that follow each other are
// written together.
func (s *stream) appendEvents(ctx context.Context, b []byte, events []*roomdb.Event, now time.Time) ([]byte, error) {
	f := view.Format{WithRoomID: true, Now: now}
	for i := 0; i < len(events); {
		j := i
		for j < len(events) && events[j].Part == events[i].Part {
			j++
		}
		written, err := view.Render(ctx, s.b.s.rooms, f, events[i:j])
		if err != nil {
			return nil, err
		}
		for n, one := range written {
			if i+n > 0 {
				b = append(b, ',')
			}
			if one, err = s.withInvite(ctx, one, events[i+n]); err != nil {
				return nil, err
			}
			b = append(b, one...)
		}
		i = j
	}
	return b, nil
}

// withInvite adds to an invite of one of the service's users the state that an invited user is shown (unsigned.invite_room_state):
// the service cannot ask for it.
func (s *stream) withInvite(ctx context.Context, written []byte, e *roomdb.Event) ([]byte, error) {
	if e.Type != "m.room.member" || e.StateKey == nil || e.Membership() != "invite" {
		return written, nil
	}
	s.mu.Lock()
	service := s.service
	s.mu.Unlock()
	if !service.InterestedInUser(id.User(*e.StateKey)) {
		return written, nil
	}
	stripped, err := view.Stripped(ctx, s.b.s.rooms, e)
	if errors.Is(err, roomdb.ErrNotFound) {
		return written, nil // the room was purged
	}
	if err != nil {
		return nil, fmt.Errorf("stripped state: %w", err)
	}
	out := append(written[:len(written)-2:len(written)-2], `,"invite_room_state":`...) // behind the age, in unsigned
	return append(append(out, stripped...), '}', '}'), nil
}
