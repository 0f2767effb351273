package client

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
	"hanse/pkg/roomowner"
	roomv1 "hanse/proto/room/v1"
)

const (
	// maxTxn is the longest transaction id, in bytes.
	maxTxn = 255
	// maxEventBody bounds the body of an event: what is larger than 64 KiB in canonical form the owner refuses.
	maxEventBody = 256 << 10
)

// sendEvent answers PUT /rooms/{roomId}/send/{eventType}/{txnId} (client-server API, "Sending events to a room"). The
// same transaction of a device is one event, for good.
func (c *Client) sendEvent(w http.ResponseWriter, r *http.Request) error {
	room, err := pathRoom(r)
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
	if err := c.limit(r, "send"); err != nil {
		return err
	}
	intent := &roomv1.EventIntent{Type: param(r, "eventType"), Content: body, Sender: string(me(r).User)}
	if intent.OriginServerTs, err = massagedTime(r); err != nil {
		return err
	}
	if intent.Type == typeRedaction {
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
	txn := param(r, "txnId")
	if txn == "" || len(txn) > maxTxn {
		return nil, merr.InvalidParam("Not a transaction ID: it must have 1 to 255 bytes")
	}
	i := me(r)
	return &roomv1.Cause{UserId: string(i.User), DeviceId: string(i.Device), TxnId: txn}, nil
}

// massagedTime is the ts parameter, by which application services date events (application service API, "Timestamp
// massaging").
func massagedTime(r *http.Request) (int64, error) {
	text := r.URL.Query().Get("ts")
	if text == "" || me(r).Appservice == nil {
		return 0, nil
	}
	ts, err := strconv.ParseInt(text, 10, 64)
	if err != nil || ts < 0 || ts > canonjson.MaxInt {
		return 0, merr.InvalidParam("ts must be a time in milliseconds")
	}
	return ts, nil
}

// sendOne makes the one call to the room's owner.
func (c *Client) sendOne(w http.ResponseWriter, r *http.Request, room id.Room, intent *roomv1.EventIntent, cause *roomv1.Cause) error {
	eventID, err := c.send(r.Context(), room, intent, cause)
	if err != nil {
		return err
	}
	a := newAnswer()
	a.text("event_id", eventID)
	return a.send(w)
}

func (c *Client) send(ctx context.Context, room id.Room, intent *roomv1.EventIntent, cause *roomv1.Cause) (string, error) {
	if intent.Type == typeCreate { // MSC4291: a room has one, which is there before the room is
		return "", merr.InvalidParam("A room that exists cannot be created")
	}
	var resp *roomv1.SendResponse
	err := roomowner.Call(ctx, c.router, room, func(ctx context.Context, rc roomv1.RoomClient) (err error) {
		resp, err = rc.Send(ctx, &roomv1.SendRequest{RoomId: string(room), Events: []*roomv1.EventIntent{intent}, Cause: cause})
		return err
	})
	if err != nil {
		if intent.Type == typeRedaction {
			return "", err // what is not found may be the event to redact
		}
		return "", roomGone(err)
	}
	return resp.EventIds[0], nil
}

// roomGone tells somebody who wants to act in a room that we do not know, or are not in, what those hear who are not in
// it: 403.
func roomGone(err error) error {
	if merr.HasCode(err, merr.CodeNotFound) {
		return errNotInRoom()
	}
	return err
}

// redact answers PUT /rooms/{roomId}/redact/{eventId}/{txnId} (client-server API, "Redactions").
func (c *Client) redact(w http.ResponseWriter, r *http.Request) error {
	room, err := pathRoom(r)
	if err != nil {
		return err
	}
	target, err := pathEvent(r)
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
	if err := c.limit(r, "redact"); err != nil {
		return err
	}
	content, err := c.redactionContent(r.Context(), room, target, body)
	if err != nil {
		return err
	}
	intent := &roomv1.EventIntent{Type: typeRedaction, Content: content, Sender: string(me(r).User), Redacts: string(target)}
	return c.sendOne(w, r, room, intent, cause)
}

// redactionContent names the redacted event in the content where the room version has it there.
func (c *Client) redactionContent(ctx context.Context, roomID id.Room, target id.Event, body []byte) ([]byte, error) {
	room, err := c.rooms.Room(ctx, roomID)
	if errors.Is(err, roomdb.ErrNotFound) {
		return nil, errNotInRoom()
	}
	if err != nil {
		return nil, err
	}
	content, err := members(body)
	if err != nil {
		return nil, err
	}
	delete(content, "redacts")
	if room.Rules.RedactsInContent {
		content["redacts"] = canonjson.AppendString(nil, string(target))
	}
	return json.Marshal(content)
}

// members decodes the members of a JSON object.
func members(object []byte) (map[string]json.RawMessage, error) {
	m := make(map[string]json.RawMessage)
	if len(object) == 0 {
		return m, nil
	}
	if err := httpx.Unmarshal(object, &m); err != nil {
		return nil, err
	}
	return m, nil
}

// putState answers PUT /rooms/{roomId}/state/{eventType}/{stateKey}.
func (c *Client) putState(w http.ResponseWriter, r *http.Request) error {
	room, err := pathRoom(r)
	if err != nil {
		return err
	}
	body, err := httpx.JSONBody(r)
	if err != nil {
		return err
	}
	if err := c.limit(r, "send"); err != nil {
		return err
	}
	key := param(r, "stateKey")
	user := me(r).User
	intent := &roomv1.EventIntent{Type: param(r, "eventType"), StateKey: &key, Content: body, Sender: string(user)}
	if intent.OriginServerTs, err = massagedTime(r); err != nil {
		return err
	}
	switch intent.Type {
	case typeMember:
		err = c.prepareMember(r, room, intent)
	case typeCanonicalAlias:
		err = c.checkCanonicalAlias(r, room, key, body)
	case typePowerLevels:
		err = c.checkPowerLevels(r.Context(), user, room, key, body)
	}
	if err != nil {
		return err
	}
	return c.sendOne(w, r, room, intent, newCause(user))
}

// prepareMember gives a membership event that comes as a plain state event what the endpoints for membership give it.
func (c *Client) prepareMember(r *http.Request, room id.Room, intent *roomv1.EventIntent) error {
	member, err := id.ParseUser(*intent.StateKey)
	if err != nil {
		return merr.InvalidParam("The state key of a membership is a user ID")
	}
	content, err := members(intent.Content)
	if err != nil {
		return err
	}
	switch membership := gjson.GetBytes(intent.Content, "membership").Str; membership {
	case join:
		if err := c.guestsMayBe(r, room); err != nil {
			return err
		}
	case invite:
		if err := c.limitInvitee(r, member); err != nil {
			return err
		}
		if err := c.mayInvite(r.Context(), me(r).User, member); err != nil {
			return err
		}
	case knock:
	case leave, ban:
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
func (c *Client) checkPowerLevels(ctx context.Context, user id.User, roomID id.Room, key string, body []byte) error {
	if key != "" {
		return nil
	}
	room, err := c.joined(ctx, user, roomID)
	if err != nil || !room.Rules.PrivilegedCreators {
		return err
	}
	power, err := c.powers(ctx, room)
	if err != nil {
		return err
	}
	create := power.StateEvent(typeCreate, "")
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
func (c *Client) checkCanonicalAlias(r *http.Request, roomID id.Room, key string, body []byte) error {
	if key != "" {
		return nil
	}
	ctx := r.Context()
	wanted, err := canonicalAliases(body)
	if err != nil || len(wanted) == 0 {
		return err
	}
	room, err := c.joined(ctx, me(r).User, roomID)
	if err != nil {
		return err
	}
	m, err := c.rooms.State(ctx, room.Part, room.SID)
	if err != nil {
		return err
	}
	old, err := c.rooms.StateEvent(ctx, room.Part, m, typeCanonicalAlias, "")
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
		found, err := c.resolve(ctx, c.server(r), alias)
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
		return nil, merr.BadJSON("Not the content of " + typeCanonicalAlias)
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
