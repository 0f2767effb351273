package media

import (
	"errors"
	"net/http"
	"strconv"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/mediastore"
	"hanse/pkg/merr"
	"hanse/pkg/session"
)

// adminRoutes registers what administrators do with media, in the shapes of Synapse's admin API ("Media admin API", "List
// media uploaded by a user").
func (m *Media) adminRoutes(rt *httpx.Router) {
	g := rt.Group("/_synapse/admin/v1").With(m.sessions.Required, administrators)
	g.Handle("GET /media/{serverName}/{mediaId}", m.adminInfo)
	g.Handle("DELETE /media/{serverName}/{mediaId}", m.adminDelete)
	g.Handle("POST /media/quarantine/{serverName}/{mediaId}", m.adminQuarantine)
	g.Handle("POST /media/unquarantine/{serverName}/{mediaId}", m.adminUnquarantine)
	g.Handle("POST /media/protect/{mediaId}", m.adminProtect(true))
	g.Handle("POST /media/unprotect/{mediaId}", m.adminProtect(false))
	g.Handle("POST /media/delete", m.adminDeleteOld, httpx.LongPoll())
	g.Handle("POST /media/{serverName}/delete", m.adminDeleteOld, httpx.LongPoll())
	g.Handle("POST /purge_media_cache", m.adminPurge, httpx.LongPoll())
	g.Handle("GET /room/{roomId}/media", m.adminRoomList, httpx.LongPoll())
	g.Handle("POST /room/{roomId}/media/quarantine", m.adminRoomQuarantine, httpx.LongPoll())
	g.Handle("POST /quarantine_media/{roomId}", m.adminRoomQuarantine, httpx.LongPoll())
	g.Handle("GET /statistics/users/media", m.adminStatistics, httpx.LongPoll())
	g.Handle("GET /users/{userId}/media", m.adminList)
	g.Handle("DELETE /users/{userId}/media", m.adminDeleteOfUser, httpx.LongPoll())
	g.Handle("POST /user/{userId}/media/quarantine", m.adminQuarantineOfUser, httpx.LongPoll())
}

// administrators refuses everybody else.
func administrators(next httpx.Handler) httpx.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if !session.From(r).Admin {
			return merr.Forbidden("You are not a server admin")
		}
		return next(w, r)
	}
}

func pathMedia(r *http.Request) (mediastore.ID, error) {
	i, err := mediastore.ParseID(httpx.Param(r, "serverName"), httpx.Param(r, "mediaId"))
	if err != nil {
		return i, merr.NotFound("Not a media ID").WithCause(err)
	}
	return i, nil
}

func (m *Media) pathUser(r *http.Request) (id.User, error) {
	u, err := id.ParseUser(httpx.Param(r, "userId"))
	if err != nil {
		return "", merr.InvalidParam("Not a valid user ID")
	}
	if !m.servers.IsLocal(u.Server()) {
		return "", merr.InvalidParam("Can only look up local users")
	}
	return u, nil
}

// unknown turns the store's word for what there is not into the API's.
func unknown(err error) error {
	if errors.Is(err, mediastore.ErrNotFound) {
		return merr.NotFound("Unknown media")
	}
	return err
}

// info is a media as Synapse shows it.
func info(media *mediastore.Media) map[string]any {
	optional := func(s string) any {
		if s == "" {
			return nil
		}
		return s
	}
	return map[string]any{
		"media_id": media.Media, "media_length": media.Bytes, "media_type": media.Type, "upload_name": optional(media.Name),
		"created_ts": media.Created.UnixMilli(), "last_access_ts": media.Accessed.UnixMilli(),
		"quarantined_by": optional(media.QuarantinedBy), "safe_from_quarantine": media.Protected,
	}
}

func (m *Media) adminInfo(w http.ResponseWriter, r *http.Request) error {
	i, err := pathMedia(r)
	if err != nil {
		return err
	}
	media, err := m.store.Get(r.Context(), i)
	if err != nil {
		return unknown(err)
	}
	about := info(media)
	about["media_origin"], about["user_id"] = media.Origin, string(media.User)
	return httpx.OK(w, map[string]any{"media_info": about})
}

func (m *Media) adminDelete(w http.ResponseWriter, r *http.Request) error {
	i, err := pathMedia(r)
	if err != nil {
		return err
	}
	if err := m.store.Delete(r.Context(), i); err != nil {
		return unknown(err)
	}
	m.metrics.removed.WithLabelValues("deleted").Inc()
	return httpx.OK(w, map[string]any{"deleted_media": []string{i.Media}, "total": 1})
}

func (m *Media) adminQuarantine(w http.ResponseWriter, r *http.Request) error {
	i, err := pathMedia(r)
	if err != nil {
		return err
	}
	if _, err := m.store.Quarantine(r.Context(), i, session.From(r).User); err != nil {
		return unknown(err)
	}
	return httpx.Empty(w)
}

func (m *Media) adminUnquarantine(w http.ResponseWriter, r *http.Request) error {
	i, err := pathMedia(r)
	if err != nil {
		return err
	}
	if err := m.store.Unquarantine(r.Context(), i); err != nil {
		return unknown(err)
	}
	return httpx.Empty(w)
}

func (m *Media) adminProtect(protected bool) httpx.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		i, err := mediastore.ParseID(string(m.servers.ForHost(r.Host)), httpx.Param(r, "mediaId"))
		if err != nil {
			return merr.NotFound("Not a media ID").WithCause(err)
		}
		if err := m.store.Protect(r.Context(), i, protected); err != nil {
			return unknown(err)
		}
		return httpx.Empty(w)
	}
}

// page reads from and limit.
func page(r *http.Request) (from, limit int, err error) {
	q := r.URL.Query()
	limit = 100
	for name, into := range map[string]*int{"from": &from, "limit": &limit} {
		if !q.Has(name) {
			continue
		}
		n, err := strconv.ParseInt(q.Get(name), 10, 31)
		if err != nil || n < 0 {
			return 0, 0, merr.InvalidParam("Query parameter " + name + " must be a positive number")
		}
		*into = int(n)
	}
	return min(from, 100_000), min(limit, 1000), nil
}

// orderOf reads order_by and dir: without both the newest come first.
func orderOf(r *http.Request) (o mediastore.Order, err error) {
	q := r.URL.Query()
	if !q.Has("order_by") && !q.Has("dir") {
		return o, nil
	}
	if o.By = q.Get("order_by"); o.By != "" && !mediastore.ValidOrder(o.By) {
		return o, merr.InvalidParam("Query parameter order_by is none of the fields")
	}
	down, err := descending(q.Get("dir"))
	o.Ascending = !down
	return o, err
}

func (m *Media) adminList(w http.ResponseWriter, r *http.Request) error {
	user, err := m.pathUser(r)
	if err != nil {
		return err
	}
	from, limit, err := page(r)
	if err != nil {
		return err
	}
	order, err := orderOf(r)
	if err != nil {
		return err
	}
	found, err := m.store.OfUser(r.Context(), user, order, from, limit)
	if err != nil {
		return err
	}
	have, err := m.store.UserUsage(r.Context(), user)
	if err != nil {
		return err
	}
	list := make([]map[string]any, len(found))
	for n, media := range found {
		list[n] = info(media)
	}
	answer := map[string]any{"media": list, "total": have.Items}
	if next := from + len(found); int64(next) < have.Items && len(found) > 0 {
		answer["next_token"] = next
	}
	return httpx.OK(w, answer)
}

func (m *Media) adminDeleteOfUser(w http.ResponseWriter, r *http.Request) error {
	user, err := m.pathUser(r)
	if err != nil {
		return err
	}
	from, limit, err := page(r)
	if err != nil {
		return err
	}
	order, err := orderOf(r)
	if err != nil {
		return err
	}
	found, err := m.store.OfUser(r.Context(), user, order, from, limit)
	if err != nil {
		return err
	}
	n, err := m.store.DeleteAll(r.Context(), found)
	m.metrics.removed.WithLabelValues("deleted").Add(float64(n))
	if err != nil {
		return err
	}
	ids := make([]string, len(found))
	for k, media := range found {
		ids[k] = media.Media
	}
	return httpx.OK(w, map[string]any{"deleted_media": ids, "total": n})
}

func (m *Media) adminQuarantineOfUser(w http.ResponseWriter, r *http.Request) error {
	user, err := m.pathUser(r)
	if err != nil {
		return err
	}
	n, step := 0, 500
	for from := 0; ; from += step {
		found, err := m.store.OfUser(r.Context(), user, mediastore.Order{}, from, step)
		if err != nil {
			return err
		}
		for _, media := range found {
			if media.QuarantinedBy != "" || media.Protected {
				continue
			}
			if _, err := m.store.Quarantine(r.Context(), media.ID, session.From(r).User); err != nil && !errors.Is(err, mediastore.ErrNotFound) {
				return err
			}
			n++
		}
		if len(found) < step {
			return httpx.OK(w, map[string]int{"num_quarantined": n})
		}
	}
}
