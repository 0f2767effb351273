package event

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/signing"
)

// Draft is an event before it is hashed and signed.
type Draft struct {
	// RoomID is empty for the create event from room version 12 on.
	RoomID   id.Room
	Type     string
	StateKey *string
	Sender   id.User
	Content  json.RawMessage
	// Redacts is the event that a redaction names; Build puts it where the room version has it.
	Redacts id.Event
	Depth   int64
	// OriginServerTS is in milliseconds since 1970.
	OriginServerTS int64
	PrevEvents     []id.Event
	AuthEvents     []id.Event
	// PrevHashes and AuthHashes are the reference hashes of these events, in room versions 1 and 2 only.
	PrevHashes, AuthHashes [][32]byte
	// Further are members of the event that the fields above do not cover. A member that Build sets itself wins.
	Further canonjson.Object
}

// Build hashes and signs a draft. Content that has no canonical form is ErrInvalid, an event above a size limit
// ErrTooLarge.
func Build(d Draft, rules *roomversion.Rules, origin id.Server, key *signing.Key) (*PDU, error) {
	u, err := Hash(d, rules, origin)
	if err != nil {
		return nil, err
	}
	return u.Sign(key)
}

// Unsigned is an event that lacks nothing but its signature.
type Unsigned struct {
	object  canonjson.Object
	message []byte
	rules   *roomversion.Rules
	origin  id.Server
}

// Hash is the part of Build that comes before the signature. In room versions whose event ids are hashes, the event can
// be named by others from here on.
func Hash(d Draft, rules *roomversion.Rules, origin id.Server) (*Unsigned, error) {
	o, err := d.object(rules, origin)
	if err != nil {
		return nil, err
	}
	sum := contentHash(o)
	hashes := append([]byte(`{"sha256":"`), signing.Encode(sum[:])...)
	o = o.With("hashes", append(hashes, `"}`...))
	message, err := essence(o, rules)
	if err != nil {
		return nil, err
	}
	return &Unsigned{o, message, rules, origin}, nil
}

// ID is the event's id.
func (u *Unsigned) ID() id.Event {
	if u.rules.EventID == 1 {
		text, _ := u.object.String("event_id")
		return id.Event(text)
	}
	return eventID(sha256.Sum256(u.message), u.rules)
}

// Sign makes the event. It may be called from any goroutine.
func (u *Unsigned) Sign(key *signing.Key) (*PDU, error) {
	o, err := signing.AddSignature(u.object, u.origin, key.ID, key.Sign(u.message))
	if err != nil {
		return nil, err
	}
	b := o.Bytes()
	if len(b) > MaxBytes {
		return nil, fmt.Errorf("%d bytes: %w", len(b), ErrTooLarge)
	}
	if err := checkShape(o, u.rules, false); err != nil {
		return nil, err
	}
	p, err := view(b, o, u.rules)
	if err != nil {
		return nil, err
	}
	if u.rules.EventID == 1 {
		return p, p.namedID(o)
	}
	p.setID(sha256.Sum256(u.message)) // what is signed is what the reference hash is of
	return p, nil
}

func (d *Draft) object(rules *roomversion.Rules, origin id.Server) (canonjson.Object, error) {
	content, err := canonjson.Canonical(d.Content)
	if err != nil && !rules.StrictCanonicalJSON {
		content, err = canonjson.CanonicalLoose(d.Content)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: content: %w", ErrInvalid, err)
	}
	if d.Redacts != "" && rules.RedactsInContent {
		c, err := canonjson.ParseObject(content)
		if err != nil {
			return nil, fmt.Errorf("%w: content: %w", ErrInvalid, err)
		}
		content = c.With("redacts", canonjson.AppendString(nil, string(d.Redacts))).Bytes()
	}
	o := make(canonjson.Object, 0, 16)
	add := func(key string, raw []byte) { o = append(o, canonjson.Member{Key: key, Raw: raw}) }
	text := func(key, value string) { add(key, canonjson.AppendString(nil, value)) }
	// In the order of their names.
	add("auth_events", appendReferences(nil, d.AuthEvents, d.AuthHashes, rules))
	add("content", content)
	add("depth", strconv.AppendInt(nil, min(d.Depth, maxDepth(rules)), 10))
	if rules.EventID == 1 {
		text("event_id", "$"+rand.Text()[:18]+":"+string(origin))
	}
	if rules.EventFormat == 1 {
		text("origin", string(origin))
	}
	add("origin_server_ts", strconv.AppendInt(nil, d.OriginServerTS, 10))
	add("prev_events", appendReferences(nil, d.PrevEvents, d.PrevHashes, rules))
	if d.Redacts != "" && !rules.RedactsInContent {
		text("redacts", string(d.Redacts))
	}
	if d.RoomID != "" {
		text("room_id", string(d.RoomID))
	}
	text("sender", string(d.Sender))
	if d.StateKey != nil {
		text("state_key", *d.StateKey)
	}
	text("type", d.Type)
	for _, m := range d.Further {
		if _, set := o.Get(m.Key); !set {
			o = o.With(m.Key, m.Raw)
		}
	}
	return o, nil
}

// maxDepth is where the depth of a room stays once it is reached (PDU schema, depth).
func maxDepth(rules *roomversion.Rules) int64 {
	if rules.StrictCanonicalJSON {
		return canonjson.MaxInt
	}
	return math.MaxInt64
}

func appendReferences(b []byte, ids []id.Event, hashes [][32]byte, rules *roomversion.Rules) []byte {
	b = append(b, '[')
	for i, e := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		if rules.EventFormat == 3 {
			b = canonjson.AppendString(b, string(e))
			continue
		}
		b = canonjson.AppendString(append(b, '['), string(e))
		b = append(b, `,{`...)
		if i < len(hashes) {
			b = append(b, `"sha256":"`+signing.Encode(hashes[i][:])+`"`...)
		}
		b = append(b, `}]`...)
	}
	return append(b, ']')
}

// Sign returns the event with one more signature, such as an invited user's server adds.
func Sign(p *PDU, server id.Server, key *signing.Key) (*PDU, error) {
	o, err := canonjson.ParseObject(p.JSON)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	message, err := essence(o, p.Rules)
	if err != nil {
		return nil, err
	}
	if o, err = signing.AddSignature(o, server, key.ID, key.Sign(message)); err != nil {
		return nil, err
	}
	return ParseTrusted(o.Bytes(), p.ID, p.Rules)
}

// SignedBytes returns what the event's signatures are over.
func (p *PDU) SignedBytes() ([]byte, error) {
	o, err := canonjson.ParseObject(p.JSON)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return essence(o, p.Rules)
}

// Verify verifies the event's signature by one key.
func (p *PDU) Verify(server id.Server, keyID string, public []byte) error {
	o, err := canonjson.ParseObject(p.JSON)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	message, err := essence(o, p.Rules)
	if err != nil {
		return err
	}
	return signing.VerifyBytes(o, message, server, keyID, public)
}

// SigningServers returns the servers whose signatures an event must have (server-server API, section "Validating hashes
// and signatures on received events"): the sender's; that of the event id where it names one; in restricted rooms that
// of the user who authorised the join. The server of a third party's invite need not have signed as the sender.
func (p *PDU) SigningServers() []id.Server {
	var servers []id.Server
	add := func(s id.Server) {
		if s != "" && !slices.Contains(servers, s) {
			servers = append(servers, s)
		}
	}
	thirdParty := p.Type == "m.room.member" && p.Membership() == "invite" && gjson.GetBytes(p.Content, "third_party_invite").IsObject()
	if !thirdParty {
		add(p.Sender.Server())
	}
	if p.Rules.EventID == 1 {
		add(p.ID.Server())
	}
	if p.Rules.RestrictedJoin && p.Membership() == "join" {
		via := gjson.GetBytes(p.Content, "join_authorised_via_users_server").Str
		if strings.HasPrefix(via, "@") {
			add(id.User(via).Server())
		}
	}
	return servers
}
