package sliding

import (
	"cmp"
	"encoding/json"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
)

// Request is what a client asks for, in whichever encoding.
type Request struct {
	Conn     string
	Pos      string
	Timeout  int64 // milliseconds
	Presence string
	Lists    []List         // by name
	Rooms    []Subscription // by room
	Extensions

	// Stable says that the request came in the form of /v4/sync, and so does the answer.
	Stable bool
	shape  uint32
	size   int
}

// List asks for the rooms at some places among those that pass a filter.
type List struct {
	Name string
	Want
	Ranges  [][2]int
	All     bool // no ranges: all places
	Filters *Filters
}

// Subscription asks for a room.
type Subscription struct {
	Room id.Room
	Want
}

// Want says what of a room is asked for.
type Want struct {
	Limit int
	State Required
}

// Filters say which rooms a list has.
type Filters struct {
	DM           *bool     `json:"is_dm"`
	Spaces       []id.Room `json:"spaces"`
	Encrypted    *bool     `json:"is_encrypted"`
	Invited      *bool     `json:"is_invited"`
	Invite       *bool     `json:"is_invite"` // its name in the unstable encoding
	RoomTypes    []*string `json:"room_types"`
	NotRoomTypes []*string `json:"not_room_types"`
	Tags         []string  `json:"tags"`
	NotTags      []string  `json:"not_tags"`
}

// Extensions are those that a client has enabled; nil if it has not.
type Extensions struct {
	ToDevice    *ToDevice
	E2EE        bool
	AccountData *Scope
	Receipts    *Scope
	Typing      *Scope
}

// ToDevice asks for to-device messages (MSC3885).
type ToDevice struct {
	Limit int
	Since string
}

// Scope says for which of the rooms that are asked for an extension counts. Nil stands for all lists, or all subscriptions.
type Scope struct {
	Lists []string
	Rooms []string
}

// The limits of a request.
const (
	MaxLists    = 100
	MaxRooms    = 100
	maxRanges   = 100
	maxState    = 500 // entries of one required_state
	maxFilter   = 1000
	maxTimeline = 100
	maxConnID   = 255
	maxName     = 255
)

// Has says whether a list or a subscription is in the scope.
func (s *Scope) Has(lists []string, subscribed bool, room id.Room) bool {
	if s == nil {
		return false
	}
	if subscribed && (s.Rooms == nil || slices.Contains(s.Rooms, "*") || slices.Contains(s.Rooms, string(room))) {
		return true
	}
	return slices.ContainsFunc(lists, func(l string) bool {
		return s.Lists == nil || slices.Contains(s.Lists, "*") || slices.Contains(s.Lists, l)
	})
}

type scopeJSON struct {
	Enabled bool     `json:"enabled"`
	Lists   []string `json:"lists"`
	Rooms   []string `json:"rooms"`
}

func (s *scopeJSON) scope() *Scope {
	if s == nil || !s.Enabled {
		return nil
	}
	return &Scope{s.Lists, s.Rooms}
}

type extensionsJSON struct {
	ToDevice *struct {
		Enabled bool   `json:"enabled"`
		Limit   *int   `json:"limit"`
		Since   string `json:"since"`
	} `json:"to_device"`
	E2EE *struct {
		Enabled bool `json:"enabled"`
	} `json:"e2ee"`
	AccountData *scopeJSON `json:"account_data"`
	Receipts    *scopeJSON `json:"receipts"`
	Typing      *scopeJSON `json:"typing"`
}

// bodyJSON is a request whose lists and subscriptions are of a form.
type bodyJSON[L, R any] struct {
	Conn        string         `json:"conn_id"`
	Pos         string         `json:"pos"`
	Timeout     int64          `json:"timeout"`
	SetPresence string         `json:"set_presence"`
	Lists       map[string]L   `json:"lists"`
	Rooms       map[string]R   `json:"room_subscriptions"`
	Extensions  extensionsJSON `json:"extensions"`
}

type unstableRoom struct {
	Limit int         `json:"timeline_limit"`
	State [][2]string `json:"required_state"`
}

type unstableList struct {
	unstableRoom
	Ranges  [][2]int `json:"ranges"`
	Filters *Filters `json:"filters"`
}

type stableRoom struct {
	Limit int `json:"timeline_limit"`
	State struct {
		Include []elementJSON `json:"include"`
		Exclude []elementJSON `json:"exclude"`
		Lazy    bool          `json:"lazy_members"`
	} `json:"required_state"`
}

type stableList struct {
	stableRoom
	Range   *[2]int  `json:"range"`
	Filters *Filters `json:"filters"`
}

// Parse reads the body of a request of /v4/sync, or of one in the unstable encoding, whose other parts are in the URL.
func Parse(body []byte, stable bool) (*Request, error) {
	if stable {
		return parse(body, true, stableWant, func(l *stableList) (Want, [][2]int, bool, *Filters, error) {
			w, err := stableWant(&l.stableRoom)
			if l.Range == nil {
				return w, nil, true, l.Filters, err
			}
			return w, [][2]int{*l.Range}, false, l.Filters, err
		})
	}
	return parse(body, false, unstableWant, func(l *unstableList) (Want, [][2]int, bool, *Filters, error) {
		w, err := unstableWant(&l.unstableRoom)
		if l.Filters != nil {
			l.Filters.Invited = l.Filters.Invite
		}
		return w, l.Ranges, false, l.Filters, err
	})
}

func parse[L, R any](body []byte, stable bool, room func(*R) (Want, error), list func(*L) (Want, [][2]int, bool, *Filters, error)) (*Request, error) {
	var in bodyJSON[L, R]
	if err := unmarshal(body, &in); err != nil {
		return nil, err
	}
	r := &Request{Conn: in.Conn, Stable: stable, size: 1000 + 4*len(body)}
	if stable {
		r.Pos, r.Timeout, r.Presence = in.Pos, in.Timeout, in.SetPresence
	}
	switch {
	case len(in.Conn) > maxConnID || strings.ContainsRune(in.Conn, 0):
		return nil, merr.InvalidParam("conn_id is too long, or has a NUL in it")
	case len(in.Lists) > MaxLists:
		return nil, merr.InvalidParam("more than " + strconv.Itoa(MaxLists) + " lists")
	case len(in.Rooms) > MaxRooms:
		return nil, merr.InvalidParam("more than " + strconv.Itoa(MaxRooms) + " room subscriptions")
	}
	for _, name := range slices.Sorted(maps.Keys(in.Lists)) {
		if len(name) > maxName {
			return nil, merr.InvalidParam("the name of a list is too long")
		}
		config := in.Lists[name]
		l := List{Name: name}
		var err error
		if l.Want, l.Ranges, l.All, l.Filters, err = list(&config); err != nil {
			return nil, err
		}
		if err := l.check(); err != nil {
			return nil, err
		}
		r.Lists = append(r.Lists, l)
	}
	for _, name := range slices.Sorted(maps.Keys(in.Rooms)) {
		config := in.Rooms[name]
		w, err := room(&config)
		if err != nil {
			return nil, err
		}
		r.Rooms = append(r.Rooms, Subscription{id.Room(name), w})
	}
	if err := r.addExtensions(&in.Extensions); err != nil {
		return nil, err
	}
	r.shape = r.shapeOf()
	return r, nil
}

// unmarshal reads what was found to be JSON already.
func unmarshal(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return merr.BadJSON("the request does not have the right form: " + err.Error())
	}
	return nil
}

func (r *Request) addExtensions(e *extensionsJSON) error {
	if e.ToDevice != nil && e.ToDevice.Enabled {
		r.ToDevice = &ToDevice{Limit: maxTimeline, Since: e.ToDevice.Since}
		if l := e.ToDevice.Limit; l != nil {
			if *l < 0 {
				return merr.InvalidParam("to_device: limit is negative")
			}
			r.ToDevice.Limit = min(max(*l, 1), maxTimeline)
		}
	}
	r.E2EE = e.E2EE != nil && e.E2EE.Enabled
	r.AccountData, r.Receipts, r.Typing = e.AccountData.scope(), e.Receipts.scope(), e.Typing.scope()
	for _, s := range []*Scope{r.AccountData, r.Receipts, r.Typing} {
		if s != nil && len(s.Lists)+len(s.Rooms) > maxFilter {
			return merr.InvalidParam("an extension names too many lists or rooms")
		}
	}
	return nil
}

func (l *List) check() error {
	if len(l.Ranges) > maxRanges {
		return merr.InvalidParam("list " + l.Name + " has too many ranges")
	}
	for _, r := range l.Ranges {
		if r[0] < 0 || r[1] < r[0] {
			return merr.InvalidParam("list " + l.Name + " has a range that ends before it begins")
		}
	}
	if f := l.Filters; f != nil && len(f.Spaces)+len(f.RoomTypes)+len(f.NotRoomTypes)+len(f.Tags)+len(f.NotTags) > maxFilter {
		return merr.InvalidParam("list " + l.Name + " has filters that are too long")
	}
	return nil
}

// Within says whether a place is in one of the list's ranges.
func (l *List) Within(place int) bool {
	return l.All || slices.ContainsFunc(l.Ranges, func(r [2]int) bool { return r[0] <= place && place <= r[1] })
}

// End returns the first place behind all ranges, at most n.
func (l *List) End(n int) int {
	if l.All {
		return n
	}
	end := 0
	for _, r := range l.Ranges {
		end = max(end, min(r[1], n-1)+1)
	}
	return min(end, n)
}

// Shape is a hash of which rooms the lists ask for. A client that asks for others wants to be told at once that there are none.
func (r *Request) Shape() uint32 { return r.shape }

func (r *Request) shapeOf() uint32 {
	h := fnv.New32a()
	for i := range r.Lists {
		l := &r.Lists[i]
		text, err := json.Marshal([]any{l.Name, l.All, l.Ranges, l.Filters})
		if err != nil {
			panic(err) // strings and numbers always marshal
		}
		_, _ = h.Write(text)
	}
	return h.Sum32()
}

// Size is about how many bytes the request takes in memory.
func (r *Request) Size() int { return r.size }

func limit(n int) (int, error) {
	if n < 0 {
		return 0, merr.InvalidParam("timeline_limit is negative")
	}
	return min(n, maxTimeline), nil
}

func unstableWant(r *unstableRoom) (w Want, err error) {
	if w.Limit, err = limit(r.Limit); err != nil {
		return w, err
	}
	if len(r.State) > maxState {
		return w, merr.InvalidParam("required_state is too long")
	}
	all := false
	for _, e := range r.State {
		typ, key := e[0], e[1]
		if key != "$LAZY" {
			all = all || typ == memberType && key == "*"
			w.State.Include = append(w.State.Include, element{
				Type: typ, Key: key, AnyType: typ == "*", AnyKey: key == "*", Me: key == "$ME",
			})
			continue
		}
		if typ != memberType {
			return w, merr.InvalidParam("required_state: $LAZY is for m.room.member only")
		}
		w.State.Lazy = true
	}
	w.State.Lazy = w.State.Lazy && !all
	w.State.index()
	return w, nil
}

func stableWant(r *stableRoom) (w Want, err error) {
	if w.Limit, err = limit(r.Limit); err != nil {
		return w, err
	}
	if len(r.State.Include)+len(r.State.Exclude) > maxState {
		return w, merr.InvalidParam("required_state is too long")
	}
	w.State.Lazy = r.State.Lazy
	for _, e := range r.State.Include {
		w.State.Include = append(w.State.Include, e.element())
	}
	for _, e := range r.State.Exclude {
		w.State.Exclude = append(w.State.Exclude, e.element())
	}
	w.State.index()
	return w, nil
}

// byHash sorts hashes, without doubles.
func byHash(hashes []uint32) []uint32 {
	slices.SortFunc(hashes, cmp.Compare[uint32])
	return slices.Compact(hashes)
}
