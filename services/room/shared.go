package room

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"hanse/pkg/mac"
	"hanse/pkg/packed"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

const (
	// sharedFor is how long Redis keeps a resolution.
	sharedFor = time.Hour
	// sharedWait bounds how long Redis is waited for: resolving anew is not much slower.
	sharedWait = 200 * time.Millisecond
	// sharedChanges bounds what is shared: how many entries a result differs in from the input that is nearest to it.
	sharedChanges = 1000
	// sharedQueue is how many resolutions wait to be shared; beyond it they are not.
	sharedQueue = 256
)

// resolution is the result of one, and what it is the result of.
type resolution struct {
	room   roomdb.RoomKey
	maps   []state.Map
	result state.Map
}

// shared is what the workers know of each other's resolutions, in Redis: of use to one that takes a room over.
//
// A value is the identities of an input and of the result, and what differs between these two. It is believed only if a
// worker of this cluster has signed it under this name, which is of the room and of all inputs, and if it makes the result of
// the input. Identities are of numeric ids, and a number that was given out but never committed
// may be given out again for another event by the next owner: so only resolutions of changes that are committed are
// shared, and their numbers mean the same for ever.
type shared struct {
	redis   redis.UniversalClient // nil: nothing is shared
	key     *mac.Key
	cluster string
	queue   chan resolution
}

func newShared(r redis.UniversalClient, secret *mac.Secret, cluster string) *shared {
	s := &shared{cluster: cluster, queue: make(chan resolution, sharedQueue)}
	if r != nil && secret != nil {
		s.redis, s.key = r, secret.Key("resolution")
	}
	return s
}

// offer queues resolutions of a change that is committed. It never blocks.
func (s *shared) offer(all []resolution) {
	if s.redis == nil {
		return
	}
	for _, r := range all {
		select {
		case s.queue <- r:
		default:
			return
		}
	}
}

// run writes what was offered until ctx ends. What cannot be written is forgotten.
func (s *shared) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-s.queue:
			if value := encodeResolution(r); value != nil {
				name := s.name(r.room, r.maps)
				wctx, cancel := context.WithTimeout(ctx, sharedWait)
				_ = s.redis.Set(wctx, name, s.key.Sign(name, value, time.Now().Add(sharedFor)), sharedFor).Err()
				cancel()
			}
		}
	}
}

// get returns the resolution of states if Redis has it.
func (s *shared) get(ctx context.Context, room roomdb.RoomKey, maps []state.Map) (state.Map, bool) {
	if s.redis == nil {
		return state.Map{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, sharedWait)
	defer cancel()
	name := s.name(room, maps)
	signed, err := s.redis.Get(ctx, name).Bytes()
	if err != nil {
		return state.Map{}, false
	}
	value, err := s.key.Open(name, signed, time.Now())
	if err != nil {
		return state.Map{}, false
	}
	m, err := decodeResolution(value, maps)
	return m, err == nil
}

func (s *shared) name(room roomdb.RoomKey, maps []state.Map) string {
	b := append([]byte(s.cluster), 0)
	b = binary.AppendUvarint(b, uint64(room.Part))
	b = binary.AppendVarint(b, room.NID)
	sum := sha256.Sum256(append(b, resolveKey(maps)...))
	return "hanse:resolved:" + base64.RawURLEncoding.EncodeToString(sum[:])
}

// encodeResolution returns nil for a result that is far from all inputs.
func encodeResolution(r resolution) []byte {
	var base state.Map
	var nearest []state.Change
	found := false
	for _, m := range r.maps {
		limit := sharedChanges
		if found {
			limit = len(nearest) - 1
		}
		if changes, ok := changesTo(m, r.result, limit); ok {
			base, nearest, found = m, changes, true
		}
	}
	if !found {
		return nil
	}
	from, to := base.ID(), r.result.ID()
	b := append(append(packed.Begin(64+32*len(nearest)), from[:]...), to[:]...)
	b = binary.AppendUvarint(b, uint64(len(nearest)))
	for _, c := range nearest {
		for _, text := range []string{c.Key.Type, c.Key.StateKey} {
			b = append(binary.AppendUvarint(b, uint64(len(text))), text...)
		}
		b = binary.AppendVarint(b, c.New)
	}
	return packed.Pack(b)
}

// changesTo returns what makes to of from, unless that is more than limit.
func changesTo(from, to state.Map, limit int) (changes []state.Change, ok bool) {
	for c := range state.Diff(from, to) {
		if len(changes) >= limit {
			return nil, false
		}
		changes = append(changes, c)
	}
	return changes, true
}

var errNotResolved = errors.New("not a resolution of these states")

// decodeResolution makes the result of the inputs and a stored value, and holds it against its identity.
func decodeResolution(value []byte, maps []state.Map) (state.Map, error) {
	plain, err := packed.Unpack(value)
	if err != nil {
		return state.Map{}, err
	}
	r := packed.NewReader(plain)
	from, to := r.Take(uint64(len(state.ID{}))), r.Take(uint64(len(state.ID{})))
	n := r.Uvarint()
	if n > sharedChanges {
		return state.Map{}, errNotResolved
	}
	changes := make([]state.Change, 0, n)
	for range n {
		typ := string(r.Take(r.Uvarint()))
		key := string(r.Take(r.Uvarint()))
		changes = append(changes, state.Change{Key: state.Key{Type: typ, StateKey: key}, New: r.Varint()})
	}
	if err := r.Done(); err != nil {
		return state.Map{}, err
	}
	for _, m := range maps {
		if base := m.ID(); bytes.Equal(base[:], from) {
			result := m.Apply(changes)
			if is := result.ID(); bytes.Equal(is[:], to) {
				return result, nil
			}
		}
	}
	return state.Map{}, errNotResolved
}
