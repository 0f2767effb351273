package sliding

import (
	"cmp"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"slices"
)

// Key names a room: its partition and its number there.
type Key uint64

// nidBits is enough for the numbers of a partition.
const nidBits = 52

// KeyOf returns the key of a room.
func KeyOf(part uint32, nid int64) Key {
	return Key(uint64(part)<<nidBits | uint64(nid)&(1<<nidBits-1))
}

// KeyOfID returns the key of a room that has no number there. It is beside the numbers of rooms, which are smaller.
func KeyOfID(part uint32, room string) Key {
	h := fnv.New64a()
	_, _ = h.Write([]byte(room)) // it never fails
	return KeyOf(part, int64(h.Sum64()>>(64-nidBits)|1<<(nidBits-1)))
}

func (k Key) part() uint64 { return uint64(k) >> nidBits }
func (k Key) nid() uint64  { return uint64(k) & (1<<nidBits - 1) }

// Told is what a client knows of a room.
type Told struct {
	// Live: all up to the client's position. Else up to Pos.
	Live bool
	Pos  int64
	// Config is the number of what the client was told of the room.
	Config uint16
}

// room is Told in few bytes: what it says is 0 for a room that the client knows nothing of any more (in changes only), else the
// number of the config plus 1, and the position.
type room struct {
	key  Key
	what uint64
}

const configBits = 8

func pack(t Told) uint64 {
	pos := uint64(0)
	if !t.Live {
		pos = uint64(t.Pos) + 1
	}
	return pos<<configBits | uint64(t.Config+1)
}

func (r room) told() (t Told, ok bool) {
	if r.what == 0 {
		return Told{}, false
	}
	pos := r.what >> configBits
	t.Config = uint16(r.what&(1<<configBits-1)) - 1
	if t.Live = pos == 0; !t.Live {
		t.Pos = int64(pos) - 1
	}
	return t, true
}

// Head is what a connection remembers besides rooms.
type Head struct {
	// Shape is a hash of the lists that were asked for: another one is answered at once.
	Shape uint32
	// Configs are what rooms were told with.
	Configs []Config
}

// Config is what a client was told of a room: so many events of the timeline, and the state that some entries of required_state
// name, each by its hash.
type Config struct {
	Limit int
	State []uint32 // sorted
}

// State is what a client knows at one of its positions. It is never changed.
type State struct {
	Head
	rooms []room // by key
}

// Told returns what the client knows of a room; ok is false if it knows nothing.
func (s *State) Told(k Key) (t Told, ok bool) {
	i, found := slices.BinarySearchFunc(s.rooms, k, func(r room, k Key) int { return cmp.Compare(r.key, k) })
	if !found {
		return Told{}, false
	}
	return s.rooms[i].told()
}

// Len returns the number of rooms.
func (s *State) Len() int { return len(s.rooms) }

// Size is about how many bytes the state takes in memory.
func (s *State) Size() int {
	size := 64 + 16*len(s.rooms)
	for i := range s.Configs {
		size += 32 + 4*len(s.Configs[i].State)
	}
	return size
}

// Changes are what an answer changes of what the client knows.
type Changes struct {
	Head *Head // nil: as it was
	// rooms are sorted, and may say of rooms that they are forgotten.
	rooms []room
}

// Set says what the client knows of a room from the answer on.
func (c *Changes) Set(k Key, t Told) { c.put(room{k, pack(t)}) }

// Forget says that the client needs no more of a room: it is told anew if it comes back.
func (c *Changes) Forget(k Key) { c.put(room{key: k}) }

// Has says whether there is a change of a room.
func (c *Changes) Has(k Key) bool {
	_, found := slices.BinarySearchFunc(c.rooms, k, func(r room, k Key) int { return cmp.Compare(r.key, k) })
	return found
}

func (c *Changes) put(r room) {
	i, found := slices.BinarySearchFunc(c.rooms, r.key, func(r room, k Key) int { return cmp.Compare(r.key, k) })
	if found {
		c.rooms[i] = r
		return
	}
	c.rooms = slices.Insert(c.rooms, i, r)
}

// Empty says that nothing changes.
func (c *Changes) Empty() bool { return c.Head == nil && len(c.rooms) == 0 }

// With returns the state after changes.
func (s *State) With(c *Changes) *State {
	next := &State{Head: s.Head}
	if c.Head != nil {
		next.Head = *c.Head
	}
	next.rooms = merge(s.rooms, c.rooms, false)
	return next
}

// And returns these changes and then others.
func (c *Changes) And(later *Changes) *Changes {
	out := &Changes{Head: c.Head, rooms: merge(c.rooms, later.rooms, true)}
	if later.Head != nil {
		out.Head = later.Head
	}
	return out
}

// merge returns what holds after changes; forgotten rooms stay in if the result is to be changes again.
func merge(old, changes []room, keep bool) []room {
	out := make([]room, 0, len(old)+len(changes))
	for len(old) > 0 || len(changes) > 0 {
		switch {
		case len(changes) == 0 || len(old) > 0 && old[0].key < changes[0].key:
			out, old = append(out, old[0]), old[1:]
		default:
			if len(old) > 0 && old[0].key == changes[0].key {
				old = old[1:]
			}
			if changes[0].what != 0 || keep {
				out = append(out, changes[0])
			}
			changes = changes[1:]
		}
	}
	return out
}

// ConfigNumber returns the number of a config, and a new head if it had to be added. configsMax bounds the table: when it is full,
// used says which of the numbers rooms still have, and another one is replaced. If all are used, so is the last: its rooms
// are told more than they need.
func (h *Head) ConfigNumber(c Config, used func(uint16) bool) (n uint16, changed *Head) {
	if len(c.State) > stateMax {
		c.State = []uint32{sumOf(c.State)}
	}
	for i := range h.Configs {
		if h.Configs[i].Limit == c.Limit && slices.Equal(h.Configs[i].State, c.State) {
			return uint16(i), nil
		}
	}
	next := &Head{Shape: h.Shape, Configs: slices.Clone(h.Configs)}
	details := 0
	for i := range h.Configs {
		details += len(h.Configs[i].State)
	}
	if details+len(c.State) > detailsMax {
		c.State = []uint32{sumOf(c.State)}
		for i := range h.Configs {
			if h.Configs[i].Limit == c.Limit && slices.Equal(h.Configs[i].State, c.State) {
				return uint16(i), nil
			}
		}
	}
	if len(next.Configs) < configsMax {
		next.Configs = append(next.Configs, c)
		return uint16(len(next.Configs) - 1), next
	}
	at := configsMax - 1
	for i := range next.Configs {
		if !used(uint16(i)) {
			at = i
			break
		}
	}
	next.Configs[at] = c
	return uint16(at), next
}

const (
	// stateMax is how many entries of required_state are remembered one by one, detailsMax how many of all configs. Those of others
	// are remembered as one: any change of them counts as one that asks for more.
	stateMax, detailsMax = 48, 128
	configsMax           = 64
)

// sumOf is the hash of many.
func sumOf(hashes []uint32) uint32 {
	h := fnv.New32a()
	var b [4]byte
	for _, n := range hashes {
		binary.BigEndian.PutUint32(b[:], n)
		_, _ = h.Write(b[:])
	}
	return h.Sum32()
}

// Covers says whether a client that was told by this config has all state that another asks for.
func (c *Config) Covers(o *Config) bool {
	asked := o.State
	if len(asked) > stateMax {
		asked = []uint32{sumOf(asked)}
	}
	whole := sumOf(o.State)
	if len(c.State) == 1 && c.State[0] == whole {
		return true
	}
	for _, h := range asked {
		if _, ok := slices.BinarySearch(c.State, h); !ok {
			return false
		}
	}
	return true
}

// UsesConfig says whether a room was told by a config.
func (s *State) UsesConfig(n uint16) bool {
	return slices.ContainsFunc(s.rooms, func(r room) bool { t, ok := r.told(); return ok && t.Config == n })
}

const stateVersion = 1

// Encode writes the state.
func (s *State) Encode() []byte { return (&Changes{Head: &s.Head, rooms: s.rooms}).Encode() }

// Encode writes changes. Rooms are in order, each as the difference to the one before: some bytes.
func (c *Changes) Encode() []byte {
	if c.Empty() {
		return []byte{}
	}
	b := make([]byte, 0, 32+10*len(c.rooms))
	b = append(b, stateVersion)
	if c.Head == nil {
		b = append(b, 0)
	} else {
		b = append(b, 1)
		b = binary.BigEndian.AppendUint32(b, c.Head.Shape)
		b = binary.AppendUvarint(b, uint64(len(c.Head.Configs)))
		for _, cfg := range c.Head.Configs {
			b = binary.AppendUvarint(b, uint64(cfg.Limit))
			b = binary.AppendUvarint(b, uint64(len(cfg.State)))
			for _, h := range cfg.State {
				b = binary.BigEndian.AppendUint32(b, h)
			}
		}
	}
	var last Key
	for _, r := range c.rooms {
		skip, nid := r.key.part()-last.part(), r.key.nid()
		if skip == 0 {
			nid -= last.nid()
		}
		b = binary.AppendUvarint(b, skip)
		b = binary.AppendUvarint(b, nid)
		b = append(b, byte(r.what))
		if byte(r.what) != 0 {
			b = binary.AppendUvarint(b, r.what>>configBits)
		}
		last = r.key
	}
	return b
}

// ErrDamaged is returned for what Encode did not write.
var ErrDamaged = errors.New("connection of sliding sync cannot be read")

// DecodeState reads a state.
func DecodeState(b []byte) (*State, error) {
	c, err := DecodeChanges(b)
	if err != nil || c.Head == nil {
		return nil, ErrDamaged
	}
	return (&State{}).With(c), nil
}

// DecodeChanges reads changes.
func DecodeChanges(b []byte) (*Changes, error) {
	if len(b) == 0 {
		return new(Changes), nil
	}
	r := reader{b: b}
	if r.byte() != stateVersion {
		return nil, ErrDamaged
	}
	c := new(Changes)
	if r.byte() == 1 {
		c.Head = r.head()
	}
	var last Key
	for !r.bad && len(r.b) > 0 {
		skip, nid := r.number(), r.number()
		if skip == 0 {
			nid += last.nid()
		}
		part := last.part() + skip
		if part >= 1<<(64-nidBits) || nid >= 1<<nidBits {
			return nil, ErrDamaged
		}
		key := KeyOf(uint32(part), int64(nid))
		if len(c.rooms) > 0 && key <= last {
			return nil, ErrDamaged
		}
		what := uint64(r.byte())
		if what != 0 {
			pos := r.number()
			if pos >= 1<<(64-configBits) {
				return nil, ErrDamaged
			}
			what |= pos << configBits
		}
		c.rooms, last = append(c.rooms, room{key, what}), key
	}
	if r.bad {
		return nil, ErrDamaged
	}
	return c, nil
}

// reader reads numbers until something is wrong.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *reader) hash() uint32 {
	if len(r.b) < 4 {
		r.bad, r.b = true, nil
		return 0
	}
	n := binary.BigEndian.Uint32(r.b)
	r.b = r.b[4:]
	return n
}

func (r *reader) head() *Head {
	h := &Head{Shape: r.hash()}
	configs := r.number()
	if r.bad = r.bad || configs > configsMax; r.bad {
		return h
	}
	for range configs {
		c := Config{Limit: int(min(r.number(), 1<<20))}
		entries := r.number()
		if r.bad = r.bad || entries > detailsMax; r.bad {
			return h
		}
		for range entries {
			c.State = append(c.State, r.hash())
		}
		h.Configs = append(h.Configs, c)
	}
	return h
}
