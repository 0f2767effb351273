package settings

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/pushrule"
	"hanse/pkg/merr"
	"hanse/pkg/notify"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomowner"
	"hanse/pkg/userdb"
	roomv1 "hanse/proto/room/v1"
	"hanse/services/client/core"
)

const (
	maxRuleID = 512
	// MaxRuleset bounds the rules of a user, in bytes.
	MaxRuleset = 256 << 10
)

func (c *Settings) pushRuleRoutes(rt *core.Routes) {
	for _, path := range []string{"/pushrules", "/pushrules/"} {
		rt.Auth.Handle("GET "+path, c.getPushRules)
	}
	for _, path := range []string{"/pushrules/global", "/pushrules/global/"} {
		rt.Auth.Handle("GET "+path, c.getGlobalPushRules)
	}
	rt.Auth.Handle("GET /pushrules/global/{kind}/{ruleId}", c.getPushRule)
	rt.Auth.Handle("PUT /pushrules/global/{kind}/{ruleId}", c.putPushRule)
	rt.Auth.Handle("DELETE /pushrules/global/{kind}/{ruleId}", c.deletePushRule)
	rt.Auth.Handle("GET /pushrules/global/{kind}/{ruleId}/enabled", c.getPushRuleEnabled)
	rt.Auth.Handle("PUT /pushrules/global/{kind}/{ruleId}/enabled", c.putPushRuleEnabled)
	rt.Auth.Handle("GET /pushrules/global/{kind}/{ruleId}/actions", c.getPushRuleActions)
	rt.Auth.Handle("PUT /pushrules/global/{kind}/{ruleId}/actions", c.putPushRuleActions)
}

// pushRules returns the rules of a user.
func (c *Settings) pushRules(ctx context.Context, user id.User) (pushrule.Ruleset, error) {
	stored, err := c.Users.AccountData(ctx, user, "", notify.PushRules)
	if err != nil && !errors.Is(err, userdb.ErrNotFound) {
		return pushrule.Ruleset{}, err
	}
	return pushrule.Parse(stored, user)
}

// changeRules changes the rules of a user and answers; clients see it as a change of the account data m.push_rules.
func (c *Settings) changeRules(w http.ResponseWriter, r *http.Request, fn func(*pushrule.Ruleset) error) error {
	user := core.Me(r).User
	if err := c.markLouder(r.Context(), user, fn); err != nil {
		return err
	}
	heads, err := c.headList(r.Context())
	if err != nil {
		return err
	}
	err = c.Users.ChangePushRules(r.Context(), user, notify.PushRules, heads, func(old []byte) (content []byte, was, muted bool, err error) {
		set, err := pushrule.Parse(old, user)
		if err != nil {
			return nil, false, false, err
		}
		was = set.Muted()
		if err := fn(&set); err != nil {
			return nil, false, false, err
		}
		content, err = set.ContentJSON()
		if err == nil && len(content) > MaxRuleset {
			return nil, false, false, merr.TooLarge("Too many push rules")
		}
		return content, was, set.Muted(), err
	})
	if err != nil {
		return ruleError(err)
	}
	return httpx.Empty(w)
}

// headList returns the positions of the newest entries of the rooms' partitions, by their numbers.
func (c *Settings) headList(ctx context.Context) ([]int64, error) {
	heads, err := c.Rooms.Heads(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]int64, len(heads))
	for part := range list {
		list[part] = heads[uint32(part)]
	}
	return list, nil
}

// markLouder marks up to where the rooms were muted that a change of the rules makes louder: what came in that time was
// not to notify, and does not begin to now (client-server API, "Receiving notifications": the rules are applied as events
// arrive).
func (c *Settings) markLouder(ctx context.Context, user id.User, fn func(*pushrule.Ruleset) error) error {
	before, err := c.pushRules(ctx, user)
	if err != nil {
		return err
	}
	after, err := c.pushRules(ctx, user)
	if err != nil || fn(&after) != nil {
		return err // what is wrong with the change is said where it is made
	}
	silent := after.SilentRooms()
	for room, mute := range before.SilentRooms() {
		if silent[room] >= mute {
			continue
		}
		thread := roomdb.MutedPlain
		if mute == pushrule.SilentAll {
			thread = roomdb.MutedAll
		}
		if err := c.markHere(ctx, user, room, thread); err != nil {
			return err
		}
	}
	return nil
}

// markHere gives the owner of a room a mark at its newest event, if the user is in it.
func (c *Settings) markHere(ctx context.Context, user id.User, roomID id.Room, thread string) error {
	room, err := c.access.Joined(ctx, user, roomID)
	if merr.HasCode(err, merr.CodeForbidden) {
		return nil
	}
	if err != nil {
		return err
	}
	newest, err := c.Rooms.Timeline(ctx, room.Part, room.NID, roomdb.TimelineQuery{After: roomdb.Start, UpTo: roomdb.End, Backwards: true, Limit: 1})
	if err != nil || len(newest) == 0 {
		return err
	}
	return roomowner.CallPart(ctx, c.Router, room.Part, func(ctx context.Context, rc roomv1.RoomClient) error {
		_, err := rc.Receipts(ctx, &roomv1.ReceiptsRequest{RoomId: string(roomID), Receipts: []*roomv1.ReceiptIntent{{UserId: string(user),
			Type: "m.read.private", ThreadId: thread, EventId: string(newest[0].ID), Ts: time.Now().UnixMilli(), Local: true}}})
		return err
	})
}

func ruleError(err error) error {
	switch {
	case errors.Is(err, pushrule.ErrNotFound):
		return merr.NotFound("Push rule not found")
	case errors.Is(err, pushrule.ErrInvalid):
		return merr.InvalidParam(err.Error())
	}
	return err
}

func (c *Settings) getPushRules(w http.ResponseWriter, r *http.Request) error {
	set, err := c.pushRules(r.Context(), core.Me(r).User)
	if err != nil {
		return err
	}
	return httpx.OK(w, map[string]pushrule.Ruleset{"global": set})
}

func (c *Settings) getGlobalPushRules(w http.ResponseWriter, r *http.Request) error {
	set, err := c.pushRules(r.Context(), core.Me(r).User)
	if err != nil {
		return err
	}
	return httpx.OK(w, set)
}

// findRule returns the rule that a request names.
func (c *Settings) findRule(r *http.Request) (*pushrule.Rule, error) {
	set, err := c.pushRules(r.Context(), core.Me(r).User)
	if err != nil {
		return nil, err
	}
	rule, err := set.Find(core.Param(r, "kind"), core.Param(r, "ruleId"))
	return rule, ruleError(err)
}

func (c *Settings) getPushRule(w http.ResponseWriter, r *http.Request) error {
	rule, err := c.findRule(r)
	if err != nil {
		return err
	}
	return httpx.OK(w, rule)
}

// putPushRule answers PUT /pushrules/global/{kind}/{ruleId} (client-server API, "Push Rules: API").
func (c *Settings) putPushRule(w http.ResponseWriter, r *http.Request) error {
	ruleID := core.Param(r, "ruleId")
	if len(ruleID) > maxRuleID {
		return merr.InvalidParam("The rule ID is too long")
	}
	var body struct {
		Actions    []json.RawMessage    `json:"actions"`
		Conditions []pushrule.Condition `json:"conditions"`
		Pattern    string               `json:"pattern"`
	}
	if err := httpx.Decode(r, &body); err != nil {
		return err
	}
	if body.Actions == nil {
		return merr.MissingParam("actions")
	}
	q := r.URL.Query()
	before, after := q.Get("before"), q.Get("after")
	return c.changeRules(w, r, func(set *pushrule.Ruleset) error {
		err := set.Put(core.Param(r, "kind"), pushrule.Rule{ID: ruleID, Actions: body.Actions, Conditions: body.Conditions, Pattern: body.Pattern}, before, after)
		if errors.Is(err, pushrule.ErrNotFound) {
			return merr.New(http.StatusBadRequest, merr.CodeUnknown, "before/after rule not found")
		}
		return err
	})
}

func (c *Settings) deletePushRule(w http.ResponseWriter, r *http.Request) error {
	return c.changeRules(w, r, func(set *pushrule.Ruleset) error {
		return set.Delete(core.Param(r, "kind"), core.Param(r, "ruleId"))
	})
}

func (c *Settings) getPushRuleEnabled(w http.ResponseWriter, r *http.Request) error {
	rule, err := c.findRule(r)
	if err != nil {
		return err
	}
	return httpx.OK(w, map[string]bool{"enabled": rule.Enabled})
}

func (c *Settings) putPushRuleEnabled(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		Enabled *bool `json:"enabled"`
	}
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	if q.Enabled == nil {
		return merr.MissingParam("enabled")
	}
	return c.changeRules(w, r, func(set *pushrule.Ruleset) error {
		return set.SetEnabled(core.Param(r, "kind"), core.Param(r, "ruleId"), *q.Enabled)
	})
}

func (c *Settings) getPushRuleActions(w http.ResponseWriter, r *http.Request) error {
	rule, err := c.findRule(r)
	if err != nil {
		return err
	}
	return httpx.OK(w, map[string][]json.RawMessage{"actions": rule.Actions})
}

func (c *Settings) putPushRuleActions(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		Actions []json.RawMessage `json:"actions"`
	}
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	if q.Actions == nil {
		return merr.MissingParam("actions")
	}
	return c.changeRules(w, r, func(set *pushrule.Ruleset) error {
		return set.SetActions(core.Param(r, "kind"), core.Param(r, "ruleId"), q.Actions)
	})
}
