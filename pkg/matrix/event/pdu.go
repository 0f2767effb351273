// Package event is the events of rooms as servers exchange them (server-server API, section "PDUs"; the room version
// pages): parsing, building, hashing, signing, redaction, and the form that clients see.
//
// The bytes that were signed are kept beside the parsed view and never marshalled again.
package event

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
)

// Limits of the section "Size limits" of the client-server API.
const (
	MaxBytes      = 65536
	MaxFieldBytes = 255
	MaxPrevEvents = 20
	MaxAuthEvents = 10
)

// Reasons why an event is not taken. ErrTooLarge and ErrInvalid never concern an event's signatures or authorisation.
var (
	ErrTooLarge = errors.New("event is too large")
	ErrInvalid  = errors.New("invalid event")
	// ErrOtherRoom is the reason why ParseIn finds an event invalid that is none of the room.
	ErrOtherRoom = errors.New("of another room")
)

// Tuple is a key of a room's state.
type Tuple struct{ Type, StateKey string }

// PDU is an event: an immutable view and the signed bytes.
type PDU struct {
	ID       id.Event
	RoomID   id.Room
	Rules    *roomversion.Rules
	Type     string
	StateKey *string
	Sender   id.User
	Depth    int64
	// OriginServerTS is in milliseconds since 1970.
	OriginServerTS int64
	PrevEvents     []id.Event
	// AuthEvents are as the event has them: from room version 12 on the create event is not among them.
	AuthEvents []id.Event
	// Redacts is the event that a redaction names, wherever the room version has it.
	Redacts id.Event
	// Content is the content, a slice of JSON.
	Content []byte
	// JSON is the canonical form with hashes and signatures, without unsigned.
	JSON []byte
	// Overlong is set if the type or the state key has more bytes than it may, though not code points. The auth rules
	// refuse such an event; it is kept, so that others may follow it.
	Overlong bool
	// ContentRedacted is set if the content hash did not match: this is the redacted form then.
	ContentRedacted bool

	// The projection is for whoever reads an event often in a form of their own; see SetProjection.
	projection atomic.Value
}

// Projection returns what SetProjection stored, or nil.
func (p *PDU) Projection() any { return p.projection.Load() }

// SetProjection keeps a parsed form of the content beside the event. Everybody must store the same type.
func (p *PDU) SetProjection(v any) { p.projection.Store(v) }

// IsState says whether the event is a state event.
func (p *PDU) IsState() bool { return p.StateKey != nil }

// Tuple returns the key of state that the event sets; the zero tuple if it is not a state event.
func (p *PDU) Tuple() Tuple {
	if p.StateKey == nil {
		return Tuple{}
	}
	return Tuple{p.Type, *p.StateKey}
}

// Is says whether the event is a state event of this type with this state key.
func (p *PDU) Is(typ, stateKey string) bool {
	return p.StateKey != nil && p.Type == typ && *p.StateKey == stateKey
}

// Membership returns content.membership of m.room.member events, empty for others.
func (p *PDU) Membership() string {
	if p.Type != "m.room.member" || p.StateKey == nil {
		return ""
	}
	return gjson.GetBytes(p.Content, "membership").Str
}

// Parse takes an event from another server. It checks form, limits and content hash (an event whose hash does not
// match is taken in its redacted form), and computes the event's id; it does not verify signatures.
func Parse(raw []byte, rules *roomversion.Rules) (*PDU, error) {
	if len(raw) > 4*MaxBytes {
		return nil, ErrTooLarge
	}
	canonical := canonjson.CanonicalLoose
	if rules.StrictCanonicalJSON {
		canonical = canonjson.Canonical
	}
	b, err := canonical(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	o, err := canonjson.ParseObject(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if len(b) > MaxBytes {
		return nil, fmt.Errorf("%d bytes: %w", len(b), ErrTooLarge)
	}
	if _, ok := o.Get("unsigned"); ok {
		o = o.Without("unsigned")
		b = o.Bytes()
	}
	if err := checkShape(o, rules, !rules.StrictFieldBytes); err != nil {
		return nil, err
	}
	matches := hashMatches(o)
	if !matches {
		if b, err = redact(o, rules); err != nil {
			return nil, err
		}
		if o, err = canonjson.ParseObject(b); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	p, err := view(b, o, rules)
	if err != nil {
		return nil, err
	}
	p.ContentRedacted = !matches
	if rules.EventID == 1 {
		if err := p.namedID(o); err != nil {
			return nil, err
		}
		return p, p.acceptable()
	}
	hash, err := referenceHash(o, rules)
	if err != nil {
		return nil, err
	}
	p.setID(hash)
	return p, p.acceptable()
}

// ParseIn is Parse for an event of a known room. It is the one answer to the question whether an event of another server is
// acceptable at all, apart from its signatures (keyring.Ring) and the auth rules.
func ParseIn(raw []byte, rules *roomversion.Rules, room id.Room) (*PDU, error) {
	p, err := Parse(raw, rules)
	if err == nil && p.RoomID != room {
		return nil, fmt.Errorf("%w: %w %s", ErrInvalid, ErrOtherRoom, p.RoomID)
	}
	return p, err
}

// acceptable looks at what shows only once the event has an id.
func (p *PDU) acceptable() error {
	if strings.IndexByte(string(p.Redacts), 0) >= 0 {
		return fmt.Errorf("%w: NUL in redacts", ErrInvalid)
	}
	// Only the room versions whose event ids are made up can express this.
	if slices.Contains(p.PrevEvents, p.ID) || slices.Contains(p.AuthEvents, p.ID) {
		return fmt.Errorf("%w: it names itself", ErrInvalid)
	}
	return nil
}

// ParseTrusted takes an event from our own database: canonical, with a known id.
func ParseTrusted(raw []byte, eventID id.Event, rules *roomversion.Rules) (*PDU, error) {
	o, err := canonjson.ParseObject(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	p, err := view(raw, o, rules)
	if err != nil {
		return nil, err
	}
	p.ID = eventID
	if p.RoomID == "" {
		p.RoomID = roomOf(eventID)
	}
	return p, nil
}

// roomOf returns the room that a create event of version 12 makes.
func roomOf(create id.Event) id.Room { return id.Room("!" + string(create[min(1, len(create)):])) }

// namedID takes the id that the event gives itself.
func (p *PDU) namedID(o canonjson.Object) error {
	text, _ := o.String("event_id")
	eventID, err := id.ParseEvent(text)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	p.ID = eventID
	return nil
}

// setID takes the id, and that of the room of a create event, from the reference hash.
func (p *PDU) setID(hash [32]byte) {
	p.ID = eventID(hash, p.Rules)
	if p.RoomID == "" {
		p.RoomID = roomOf(p.ID)
	}
}

// view reads the fields. It is lenient: what is wrong with a local event, or one that passed checkShape, was found.
func view(raw []byte, o canonjson.Object, rules *roomversion.Rules) (*PDU, error) {
	p := &PDU{Rules: rules, JSON: raw}
	for _, m := range o {
		switch m.Key {
		case "type":
			p.Type, _ = canonjson.String(m.Raw)
		case "sender":
			s, _ := canonjson.String(m.Raw)
			p.Sender = id.User(s)
		case "room_id":
			s, _ := canonjson.String(m.Raw)
			p.RoomID = id.Room(s)
		case "state_key":
			if s, ok := canonjson.String(m.Raw); ok {
				p.StateKey = &s
			}
		case "content":
			p.Content = m.Raw
		case "redacts":
			if !rules.RedactsInContent {
				s, _ := canonjson.String(m.Raw)
				p.Redacts = id.Event(s)
			}
		case "prev_events", "auth_events":
			ids, err := references(m.Raw, rules)
			if err != nil {
				return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, m.Key, err)
			}
			if m.Key == "prev_events" {
				p.PrevEvents = ids
			} else {
				p.AuthEvents = ids
			}
		}
	}
	p.Overlong = len(p.Type) > MaxFieldBytes || p.StateKey != nil && len(*p.StateKey) > rules.MaxStateKey()
	p.Depth, _ = o.Int("depth")
	p.OriginServerTS, _ = o.Int("origin_server_ts")
	if rules.RedactsInContent && p.Type == "m.room.redaction" {
		p.Redacts = id.Event(gjson.GetBytes(p.Content, "redacts").Str)
	}
	return p, nil
}

// references reads prev_events or auth_events: ids, or in versions 1 and 2 pairs of id and hashes.
func references(raw []byte, rules *roomversion.Rules) ([]id.Event, error) {
	list, err := canonjson.Elements(raw)
	if err != nil {
		return nil, err
	}
	ids := make([]id.Event, len(list))
	for i, e := range list {
		if rules.EventFormat == 1 {
			pair, err := canonjson.Elements(e)
			if err != nil || len(pair) == 0 {
				return nil, errors.New("a reference is not a pair")
			}
			e = pair[0]
		}
		text, ok := canonjson.String(e)
		if !ok {
			return nil, errors.New("a reference is not a string")
		}
		ids[i] = id.Event(text)
	}
	return ids, nil
}
