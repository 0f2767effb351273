package room

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
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
	// sharedVerdicts bounds on how many events' verdicts a result that is shared may depend: the reader looks at each.
	sharedVerdicts = 2000
	// sharedQueue is how many resolutions wait to be shared; beyond it they are not.
	sharedQueue = 256
)

// resolution is the result of one, and what it is the result of.
type resolution struct {
	room   roomdb.RoomKey
	maps   []state.Map
	result state.Map
	// verdicts are the events for which it mattered whether they are rejected, and whether they were.
	verdicts map[int64]bool
	// shared says that it came from Redis.
	shared bool
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
		if len(r.verdicts) > sharedVerdicts {
			continue // it would wait in vain, and they take memory
		}
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

// get returns the resolution of states if Redis has it. It holds if the verdicts are still the same.
func (s *shared) get(ctx context.Context, room roomdb.RoomKey, maps []state.Map) (resolution, bool) {
	if s.redis == nil {
		return resolution{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, sharedWait)
	defer cancel()
	name := s.name(room, maps)
	signed, err := s.redis.Get(ctx, name).Bytes()
	if err != nil {
		return resolution{}, false
	}
	value, err := s.key.Open(name, signed, time.Now())
	if err != nil {
		return resolution{}, false
	}
	known, err := decodeResolution(value, maps)
	return known, err == nil
}

// resolvedBy begins the names of results. Its number changes with what states are resolved to, so that nobody takes what a worker
// of another release has left.
const resolvedBy = "hanse:resolved:2:"

func (s *shared) name(room roomdb.RoomKey, maps []state.Map) string {
	b := append([]byte(s.cluster), 0)
	b = binary.AppendUvarint(b, uint64(room.Part))
	b = binary.AppendVarint(b, room.NID)
	sum := sha256.Sum256(append(b, resolveKey(maps)...))
	return resolvedBy + base64.RawURLEncoding.EncodeToString(sum[:])
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
	return packed.Pack(appendVerdicts(b, r.verdicts))
}

// appendVerdicts appends the number of verdicts, and each as the distance to the number before, doubled, and one more if the
// event is rejected.
func appendVerdicts(b []byte, verdicts map[int64]bool) []byte {
	b = binary.AppendUvarint(b, uint64(len(verdicts)))
	last := int64(0)
	for _, nid := range slices.Sorted(maps.Keys(verdicts)) {
		v := uint64(nid-last) << 1
		if verdicts[nid] {
			v |= 1
		}
		b, last = binary.AppendUvarint(b, v), nid
	}
	return b
}

func takeVerdicts(r *packed.Reader) (map[int64]bool, error) {
	n := r.Uvarint()
	if n > sharedVerdicts {
		return nil, errNotResolved
	}
	verdicts := make(map[int64]bool, n)
	last := int64(0)
	for range n {
		v := r.Uvarint()
		last += int64(v >> 1)
		verdicts[last] = v&1 != 0
	}
	return verdicts, r.Done()
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
func decodeResolution(value []byte, maps []state.Map) (resolution, error) {
	plain, err := packed.Unpack(value)
	if err != nil {
		return resolution{}, err
	}
	r := packed.NewReader(plain)
	from, to := r.Take(uint64(len(state.ID{}))), r.Take(uint64(len(state.ID{})))
	n := r.Uvarint()
	if n > sharedChanges {
		return resolution{}, errNotResolved
	}
	changes := make([]state.Change, 0, n)
	for range n {
		typ := string(r.Take(r.Uvarint()))
		key := string(r.Take(r.Uvarint()))
		changes = append(changes, state.Change{Key: state.Key{Type: typ, StateKey: key}, New: r.Varint()})
	}
	verdicts, err := takeVerdicts(r)
	if err != nil {
		return resolution{}, err
	}
	for _, m := range maps {
		if base := m.ID(); bytes.Equal(base[:], from) {
			result := m.Apply(changes)
			if is := result.ID(); bytes.Equal(is[:], to) {
				return resolution{maps: maps, result: result, verdicts: verdicts}, nil
			}
		}
	}
	return resolution{}, errNotResolved
}
