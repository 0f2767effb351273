package appservice

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"hanse/pkg/appservice"
	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
)

const (
	// inboxUsers bounds the users of a service of whom it is known that something may wait; usersAtOnce for how many it is read.
	inboxUsers, usersAtOnce = 10_000, 100
	// oneTimeKeys is the algorithm whose count is told also if none is left: clients make new keys then.
	oneTimeKeys = "signed_curve25519"
)

// message is a to-device message for a device of the service's users.
type message struct {
	part    int32
	user    id.User
	device  string
	seq     int64
	n       int32
	sender  string
	typ     string
	content []byte
}

// mark says up to which message a device has all.
type mark struct {
	Part   int32   `json:"part"`
	User   id.User `json:"user"`
	Device string  `json:"device"`
	Seq    int64   `json:"seq"`
	N      int32   `json:"n"`
}

// keyState is what a device of the service's users has left of keys, as JSON.
type keyState struct{ counts, fallbacks json.RawMessage }

type deviceKey struct {
	user   id.User
	device string
}

// poke says that something may have come for users of the service: to-device messages, or fewer keys.
func (s *stream) poke(users ...id.User) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone || !s.service.ToDevice && !s.service.Encryption {
		return
	}
	for _, u := range users {
		if len(s.inbox) >= inboxUsers {
			s.look = true
			break
		}
		s.inbox[u] = struct{}{}
	}
	if len(users) == 0 {
		s.look = true
	}
	s.start()
}

// takeInbox returns users for whom something may wait.
func (s *stream) takeInbox() (service *appservice.Service, users []id.User, look bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	look, s.look = s.look, false
	for u := range s.inbox {
		if len(users) == usersAtOnce {
			break
		}
		users = append(users, u)
		delete(s.inbox, u)
	}
	return s.service, users, look
}

// collectDevices reads what waits for devices of the service's users.
func (s *stream) collectDevices(ctx context.Context, d *draft) error {
	service, users, look := s.takeInbox()
	if !service.ToDevice && !service.Encryption {
		return nil
	}
	again := func() { s.poke(users...) }
	if look {
		found, err := s.lookForDevices(ctx, service)
		if err != nil {
			s.poke()
			again()
			return err
		}
		s.poke(found...)
		if len(users) == 0 {
			service, users, _ = s.takeInbox()
		}
	}
	if len(users) == 0 {
		return nil
	}
	if service.ToDevice {
		more, err := s.readMessages(ctx, service, users, d)
		if err != nil {
			again()
			return err
		}
		if more {
			again()
		}
	}
	if service.Encryption {
		if err := s.readKeys(ctx, service, users, d); err != nil {
			again()
			return err
		}
	}
	return nil
}

// lookForDevices returns all users of the service that have devices.
func (s *stream) lookForDevices(ctx context.Context, service *appservice.Service) ([]id.User, error) {
	var users []id.User
	for _, pool := range s.b.s.shards.All() {
		rows, err := pool.Query(ctx, sqlDevices, service.ID, inboxUsers)
		if err != nil {
			return nil, fmt.Errorf("read devices: %w", err)
		}
		some, err := pgx.CollectRows(rows, pgx.RowTo[id.User])
		if err != nil {
			return nil, fmt.Errorf("read devices: %w", err)
		}
		users = append(users, some...)
	}
	return users, nil
}

// byShard groups users by the database that they are in.
func (s *stream) byShard(users []id.User) map[*pgxpool.Pool][2]any {
	type group struct {
		parts []int32
		users []string
	}
	groups := make(map[*pgxpool.Pool]*group)
	for _, u := range users {
		part := partition.Of(string(u))
		g := groups[s.b.s.shards.For(part)]
		if g == nil {
			g = new(group)
			groups[s.b.s.shards.For(part)] = g
		}
		g.parts, g.users = append(g.parts, int32(part)), append(g.users, string(u))
	}
	out := make(map[*pgxpool.Pool][2]any, len(groups))
	for pool, g := range groups {
		out[pool] = [2]any{g.parts, g.users}
	}
	return out
}

// readMessages adds to-device messages to a draft (MSC4203), and says whether there are more. They stay where they are until the
// service has them.
func (s *stream) readMessages(ctx context.Context, service *appservice.Service, users []id.User, d *draft) (more bool, err error) {
	size := 0
	for pool, g := range s.byShard(users) {
		left := s.b.s.cfg.Events - len(d.messages)
		rows, err := pool.Query(ctx, sqlToDevice, service.ID, g[0], g[1], left+1)
		if err != nil {
			return false, fmt.Errorf("read to-device messages: %w", err)
		}
		some, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (m message, err error) {
			err = row.Scan(&m.part, &m.user, &m.device, &m.seq, &m.n, &m.sender, &m.typ, &m.content)
			return m, err
		})
		if err != nil {
			return false, fmt.Errorf("read to-device messages: %w", err)
		}
		for i, m := range some {
			if size += len(m.content) + 300; i == left || size > s.b.s.cfg.Bytes/2 && len(d.messages) > 0 {
				return true, nil
			}
			d.messages = append(d.messages, m)
		}
	}
	return false, nil
}

// users are those for whose devices the draft has something.
func (d *draft) users() []id.User {
	var users []id.User
	for _, m := range d.messages {
		users = append(users, m.user)
	}
	for k := range d.keys {
		users = append(users, k.user)
	}
	return users
}

// marks says what the service has of the devices' messages with a draft.
func (d *draft) marks() ([]byte, error) {
	if len(d.messages) == 0 {
		return nil, nil
	}
	last := make(map[deviceKey]mark)
	for _, m := range d.messages {
		last[deviceKey{m.user, m.device}] = mark{m.part, m.user, m.device, m.seq, m.n}
	}
	return json.Marshal(slices.Collect(maps.Values(last)))
}

// delivered deletes the to-device messages that the service has.
func (s *stream) delivered(ctx context.Context, stored []byte) error {
	if len(stored) == 0 {
		return nil
	}
	var marks []mark
	if err := json.Unmarshal(stored, &marks); err != nil {
		return fmt.Errorf("marks of to-device messages: %w", err)
	}
	for _, m := range marks {
		_, err := s.b.s.shards.For(uint32(m.Part)).Exec(ctx, sqlDelivered, m.Part, m.User, m.Device, m.Seq, m.N)
		if err != nil {
			return fmt.Errorf("delete to-device messages: %w", err)
		}
	}
	return nil
}

// readKeys adds to a draft what devices have left of one-time keys, and which fallback keys are unused (MSC3202): of those that get
// messages with it, and of those that have not what the service was told last.
func (s *stream) readKeys(ctx context.Context, service *appservice.Service, users []id.User, d *draft) error {
	gets := make(map[deviceKey]bool)
	for _, m := range d.messages {
		gets[deviceKey{m.user, m.device}] = true
	}
	for pool, g := range s.byShard(users) {
		rows, err := pool.Query(ctx, sqlKeys, service.ID, g[0], g[1])
		if err != nil {
			return fmt.Errorf("read counts of keys: %w", err)
		}
		var k deviceKey
		var counts map[string]int
		var fallbacks json.RawMessage
		_, err = pgx.ForEachRow(rows, []any{&k.user, &k.device, &counts, &fallbacks}, func() error {
			if counts == nil {
				counts = make(map[string]int)
			}
			counts[oneTimeKeys] += 0
			text, err := json.Marshal(counts)
			if err != nil {
				return err
			}
			now := keyState{text, slices.Clone(fallbacks)}
			if was, told := s.keys[k]; gets[k] || !told || string(was.counts) != string(text) || string(was.fallbacks) != string(fallbacks) {
				if d.keys == nil {
					d.keys = make(map[deviceKey]keyState)
				}
				d.keys[k] = now
			}
			counts = nil
			return nil
		})
		if err != nil {
			return fmt.Errorf("read counts of keys: %w", err)
		}
	}
	return nil
}
