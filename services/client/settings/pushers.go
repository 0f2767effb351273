package settings

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"hanse/pkg/httpx"
	"hanse/pkg/merr"
	"hanse/pkg/netguard"
	"hanse/pkg/partition"
	"hanse/pkg/userdb"
	"hanse/pkg/userdb/db"
	"hanse/services/client/core"
)

func (c *Settings) pusherRoutes(rt *core.Routes) {
	rt.Auth.Handle("GET /pushers", c.listPushers)
	rt.Auth.Handle("POST /pushers/set", c.setPusher)
}

type pusher struct {
	PushKey           *string         `json:"pushkey"`
	Kind              *string         `json:"kind"`
	AppID             *string         `json:"app_id"`
	AppDisplayName    *string         `json:"app_display_name"`
	DeviceDisplayName *string         `json:"device_display_name"`
	ProfileTag        string          `json:"profile_tag,omitempty"`
	Lang              *string         `json:"lang"`
	Data              json.RawMessage `json:"data"`
	Append            bool            `json:"append,omitempty"`
	// Enabled and Device have one name until MSC3881 is part of the specification, and another one then.
	Enabled         *bool  `json:"enabled,omitempty"`
	EnabledUnstable *bool  `json:"org.matrix.msc3881.enabled,omitempty"`
	Device          string `json:"device_id,omitempty"`
	DeviceUnstable  string `json:"org.matrix.msc3881.device_id,omitempty"`
	// NoBadge asks for notifications without counts (MSC4076). Clients send it beside the data or among it.
	NoBadge *bool `json:"org.matrix.msc4076.disable_badge_count,omitempty"`
}

// enabled says whether the pusher is to notify: unless the client says otherwise.
func (q *pusher) enabled() bool {
	for _, e := range []*bool{q.Enabled, q.EnabledUnstable} {
		if e != nil {
			return *e
		}
	}
	return true
}

func (c *Settings) listPushers(w http.ResponseWriter, r *http.Request) error {
	rows, err := c.Users.Pushers(r.Context(), core.Me(r).User)
	if err != nil {
		return err
	}
	list := make([]pusher, len(rows))
	for i, p := range rows {
		list[i] = pusher{
			PushKey: &p.Pushkey, Kind: &p.Kind, AppID: &p.AppID, AppDisplayName: &p.AppDisplayName,
			DeviceDisplayName: &p.DeviceDisplayName, ProfileTag: p.ProfileTag, Lang: &p.Lang, Data: p.Data,
			Enabled: &p.Enabled, EnabledUnstable: &p.Enabled, Device: p.DeviceID, DeviceUnstable: p.DeviceID,
		}
	}
	return httpx.OK(w, map[string]any{"pushers": list})
}

// setPusher answers POST /pushers/set (client-server API, "Push Notifications"). A kind of null deletes the pusher.
func (c *Settings) setPusher(w http.ResponseWriter, r *http.Request) error {
	body, err := httpx.JSONBody(r)
	if err != nil {
		return err
	}
	var q pusher
	if err := httpx.Unmarshal(body, &q); err != nil {
		return err
	}
	if err := missingParam(map[string]*string{"pushkey": q.PushKey, "app_id": q.AppID}); err != nil {
		return err
	}
	if len(*q.PushKey) > 512 {
		return merr.InvalidParam("pushkey is too long (max 512)")
	}
	if len(*q.AppID) > 64 {
		return merr.InvalidParam("app_id is too long (max 64)")
	}
	i := core.Me(r)
	if q.Kind == nil {
		var given map[string]json.RawMessage
		if err := httpx.Unmarshal(body, &given); err != nil {
			return err
		}
		if _, ok := given["kind"]; !ok {
			return merr.MissingParam("kind")
		}
		if err := c.Users.DeletePusher(r.Context(), i.User, *q.AppID, *q.PushKey); err != nil {
			return err
		}
		return httpx.Empty(w)
	}
	if err := q.check(c.guard); err != nil {
		return err
	}
	for _, text := range []string{*q.AppDisplayName, *q.DeviceDisplayName, q.ProfileTag, *q.Lang, string(q.Data)} {
		if int64(len(text)) > c.Quotas.PusherData {
			return merr.TooLarge("The pusher is too large")
		}
	}
	if err := c.MayStore(r.Context(), i.User, userdb.StoredPushers, c.Quotas.Pushers); err != nil {
		return err
	}
	err = c.Users.PutPusher(r.Context(), db.PutPusherParams{
		UserID: string(i.User), AppID: *q.AppID, Pushkey: *q.PushKey, DeviceID: string(i.Device), Kind: *q.Kind,
		AppDisplayName: *q.AppDisplayName, DeviceDisplayName: *q.DeviceDisplayName, ProfileTag: q.ProfileTag,
		Lang: *q.Lang, Data: q.Data, CreatedTs: userdb.Millis(time.Now()), Enabled: q.enabled(),
	}, !q.Append)
	if err != nil {
		return err
	}
	if err := c.bus.PublishPusher(partition.Of(string(i.User)), i.User); err != nil {
		c.Log.DebugContext(r.Context(), "announce pusher", "err", err) // the role push looks again from time to time
	}
	return httpx.Empty(w)
}

func missingParam(members map[string]*string) error {
	var missing []string
	for name, v := range members {
		if v == nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return merr.MissingParam(strings.Join(missing, ", "))
	}
	return nil
}

// check says what is wrong with a pusher, and moves to its data what belongs there.
func (q *pusher) check(guard *netguard.Guard) error {
	err := missingParam(map[string]*string{
		"app_display_name": q.AppDisplayName, "device_display_name": q.DeviceDisplayName, "lang": q.Lang,
	})
	if err != nil {
		return err
	}
	var data struct {
		URL    string `json:"url"`
		Format string `json:"format"`
	}
	if len(q.Data) == 0 || q.Data[0] != '{' {
		return merr.MissingParam("data")
	}
	if err := httpx.Unmarshal(q.Data, &data); err != nil {
		return err
	}
	switch *q.Kind {
	case "http":
		u, err := url.Parse(data.URL)
		if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.Path != "/_matrix/push/v1/notify" {
			return merr.InvalidParam("data.url must be an HTTP URL with the path /_matrix/push/v1/notify")
		}
		// Names are looked at when they are connected to.
		if addr, err := netip.ParseAddr(u.Hostname()); err == nil && guard.Check(addr) != nil {
			return merr.InvalidParam("data.url leads to an address that is not connected to")
		}
	case "email":
	default:
		return merr.InvalidParam("Unknown kind of pusher: " + *q.Kind)
	}
	if q.NoBadge == nil {
		return nil
	}
	var all map[string]json.RawMessage
	if err := httpx.Unmarshal(q.Data, &all); err != nil {
		return err
	}
	all["org.matrix.msc4076.disable_badge_count"] = json.RawMessage(strconv.FormatBool(*q.NoBadge))
	q.Data, err = json.Marshal(all)
	return err
}
