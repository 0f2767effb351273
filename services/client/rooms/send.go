package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"

	"github.com/tidwall/gjson"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	roomv1 "hanse/proto/room/v1"
	"hanse/services/client/access"
	"hanse/services/client/core"
)

const (
	// maxTxn is the longest transaction id, in bytes.
	maxTxn = 255
	// maxEventBody bounds the body of an event: what is larger than 64 KiB in canonical form the owner refuses.
	maxEventBody = 256 << 10
)

// sendEvent answers PUT /rooms/{roomId}/send/{eventType}/{txnId} (client-server API, "Sending events to a room"). The
// same transaction of a device is one event, for good.
func (c *Rooms) sendEvent(w http.ResponseWriter, r *http.Request) error {
	room, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	body, err := httpx.JSONBody(r)
	if err != nil {
		return err
	}
	cause, err := txnCause(r)
	if err != nil {
		return err
	}
	if err := c.Limit(r, "send"); err != nil {
		return err
	}
	intent := &roomv1.EventIntent{Type: core.Param(r, "eventType"), Content: body, Sender: string(core.Me(r).User)}
	if intent.OriginServerTs, err = massagedTime(r); err != nil {
		return err
	}
	if intent.Type == core.TypeRedaction {
		if intent.Redacts = gjson.GetBytes(body, "redacts").Str; intent.Redacts != "" {
			if intent.Content, err = c.redactionContent(r.Context(), room, id.Event(intent.Redacts), body); err != nil {
				return err
			}
		}
	}
	return c.sendOne(w, r, room, intent, cause)
}

// txnCause names the request by its device and transaction. Transactions of application services that act as no
// device are told apart by the service's user.
func txnCause(r *http.Request) (*roomv1.Cause, error) {
	txn := core.Param(r, "txnId")
	if txn == "" || len(txn) > maxTxn {
		return nil, merr.InvalidParam("Not a transaction ID: it must have 1 to 255 bytes")
	}
	i := core.Me(r)
	return &roomv1.Cause{UserId: string(i.User), DeviceId: string(i.Device), TxnId: txn}, nil
}

// massagedTime is the ts parameter, by which application services date events (application service API, "Timestamp
// massaging").
func massagedTime(r *http.Request) (int64, error) {
	text := r.URL.Query().Get("ts")
	if text == "" || core.Me(r).Appservice == nil {
		return 0, nil
	}
	ts, err := strconv.ParseInt(text, 10, 64)
	if err != nil || ts < 0 || ts > canonjson.MaxInt {
		return 0, merr.InvalidParam("ts must be a time in milliseconds")
	}
	return ts, nil
}

// sendOne makes the one call to the room's owner.
func (c *Rooms) sendOne(w http.ResponseWriter, r *http.Request, room id.Room, intent *roomv1.EventIntent, cause *roomv1.Cause) error {
	eventID, err := c.access.Send(r.Context(), room, intent, cause)
	if err != nil {
		return err
	}
	a := core.NewAnswer()
	a.Text("event_id", eventID)
	return a.Send(w)
}

// redact answers PUT /rooms/{roomId}/redact/{eventId}/{txnId} (client-server API, "Redactions").
func (c *Rooms) redact(w http.ResponseWriter, r *http.Request) error {
	room, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	target, err := core.PathEvent(r)
	if err != nil {
		return err
	}
	body, err := httpx.JSONBody(r)
	if err != nil {
		return err
	}
	cause, err := txnCause(r)
	if err != nil {
		return err
	}
	if err := c.Limit(r, "redact"); err != nil {
		return err
	}
	content, err := c.redactionContent(r.Context(), room, target, body)
	if err != nil {
		return err
	}
	intent := &roomv1.EventIntent{Type: core.TypeRedaction, Content: content, Sender: string(core.Me(r).User), Redacts: string(target)}
	return c.sendOne(w, r, room, intent, cause)
}

// redactionContent names the redacted event in the content where the room version has it there.
func (c *Rooms) redactionContent(ctx context.Context, roomID id.Room, target id.Event, body []byte) ([]byte, error) {
	room, err := c.Rooms.Room(ctx, roomID)
	if errors.Is(err, roomdb.ErrNotFound) {
		return nil, access.ErrNotInRoom()
	}
	if err != nil {
		return nil, err
	}
	content, err := core.Members(body)
	if err != nil {
		return nil, err
	}
	delete(content, "redacts")
	if room.Rules.RedactsInContent {
		content["redacts"] = canonjson.AppendString(nil, string(target))
	}
	return json.Marshal(content)
}

// putState answers PUT /rooms/{roomId}/state/{eventType}/{stateKey}.
func (c *Rooms) putState(w http.ResponseWriter, r *http.Request) error {
	room, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	body, err := httpx.JSONBody(r)
	if err != nil {
		return err
	}
	if err := c.Limit(r, "send"); err != nil {
		return err
	}
	key := core.Param(r, "stateKey")
	user := core.Me(r).User
	intent := &roomv1.EventIntent{Type: core.Param(r, "eventType"), StateKey: &key, Content: body, Sender: string(user)}
	if intent.OriginServerTs, err = massagedTime(r); err != nil {
		return err
	}
	switch intent.Type {
	case core.TypeMember:
		err = c.prepareMember(r, room, intent)
	case core.TypeCanonicalAlias:
		err = c.checkCanonicalAlias(r, room, key, body)
	case core.TypePowerLevels:
		err = c.checkPowerLevels(r.Context(), user, room, key, body)
	}
	if err != nil {
		return err
	}
	return c.sendOne(w, r, room, intent, access.NewCause(user))
}

// prepareMember gives a membership event that comes as a plain state event what the endpoints for membership give it.
func (c *Rooms) prepareMember(r *http.Request, room id.Room, intent *roomv1.EventIntent) error {
	member, err := id.ParseUser(*intent.StateKey)
	if err != nil {
		return merr.InvalidParam("The state key of a membership is a user ID")
	}
	content, err := core.Members(intent.Content)
	if err != nil {
		return err
	}
	switch membership := gjson.GetBytes(intent.Content, "membership").Str; membership {
	case core.Join:
		if err := c.guestsMayBe(r, room); err != nil {
			return err
		}
	case core.Invite:
		if err := c.limitInvitee(r, member); err != nil {
			return err
		}
		if err := c.mayInvite(r.Context(), core.Me(r).User, member); err != nil {
			return err
		}
	case core.Knock:
	case core.Leave, core.Ban:
		return nil
	default:
		return merr.BadJSON("Not a membership: " + strconv.Quote(membership))
	}
	if err := c.addProfile(r.Context(), content, member); err != nil {
		return err
	}
	intent.Content, err = json.Marshal(content)
	return err
}

// checkPowerLevels refuses power levels that name creators, whose power has no level: 400 (room version 12, MSC4289).
func (c *Rooms) checkPowerLevels(ctx context.Context, user id.User, roomID id.Room, key string, body []byte) error {
	if key != "" {
		return nil
	}
	room, err := c.access.Joined(ctx, user, roomID)
	if err != nil || !room.Rules.PrivilegedCreators {
		return err
	}
	power, err := c.access.Powers(ctx, room)
	if err != nil {
		return err
	}
	create := power.StateEvent(core.TypeCreate, "")
	if create == nil {
		return nil
	}
	if named := namedIn(body, auth.Creators(create)); named != "" {
		return merr.BadJSON("Creators must not have a power level: " + string(named))
	}
	return nil
}

// checkCanonicalAlias checks that the aliases that a canonical alias event adds name the room: 400 M_BAD_ALIAS
// (client-server API, "m.room.canonical_alias").
func (c *Rooms) checkCanonicalAlias(r *http.Request, roomID id.Room, key string, body []byte) error {
	if key != "" {
		return nil
	}
	ctx := r.Context()
	wanted, err := canonicalAliases(body)
	if err != nil || len(wanted) == 0 {
		return err
	}
	room, err := c.access.Joined(ctx, core.Me(r).User, roomID)
	if err != nil {
		return err
	}
	m, err := c.Rooms.State(ctx, room.Part, room.SID)
	if err != nil {
		return err
	}
	old, err := c.Rooms.StateEvent(ctx, room.Part, m, core.TypeCanonicalAlias, "")
	if err != nil {
		return err
	}
	var known []id.Alias
	if old != nil {
		known, _ = canonicalAliases(old.Content) // what is malformed there is no alias that stands already
	}
	for _, alias := range wanted {
		if slices.Contains(known, alias) {
			continue
		}
		found, err := c.directory.Resolve(ctx, c.Server(r), alias)
		if err != nil && !merr.HasCode(err, merr.CodeNotFound) {
			return err
		}
		if err != nil || found.Room != roomID {
			return merr.BadAlias("Room alias " + string(alias) + " does not point to the room")
		}
	}
	return nil
}

// canonicalAliases are the aliases in the content of m.room.canonical_alias.
func canonicalAliases(content []byte) ([]id.Alias, error) {
	var q struct {
		Alias *string  `json:"alias"`
		Alt   []string `json:"alt_aliases"`
	}
	if err := json.Unmarshal(content, &q); err != nil {
		return nil, merr.BadJSON("Not the content of " + core.TypeCanonicalAlias)
	}
	texts := q.Alt
	if q.Alias != nil && *q.Alias != "" {
		texts = append(texts, *q.Alias)
	}
	var aliases []id.Alias
	for _, text := range texts {
		alias, err := id.ParseAlias(text)
		if err != nil {
			return nil, merr.InvalidParam(err.Error())
		}
		if !slices.Contains(aliases, alias) {
			aliases = append(aliases, alias)
		}
	}
	return aliases, nil
}
