package media

import (
	"net/http"
	"strconv"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/mediastore"
	"hanse/pkg/merr"
)

// adminStatistics says how much each user has uploaded, as Synapse's "User media statistics" do. They cannot be sorted by display
// names: those lie elsewhere.
func (m *Media) adminStatistics(w http.ResponseWriter, r *http.Request) error {
	from, limit, err := page(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	s := mediastore.Statistics{Limit: from + limit, Containing: q.Get("search_term")}
	if q.Has("search_term") && s.Containing == "" {
		return merr.InvalidParam("Query parameter search_term cannot be an empty string.")
	}
	switch q.Get("order_by") {
	case "", "user_id":
	case "media_length":
		s.By = mediastore.ByBytes
	case "media_count":
		s.By = mediastore.ByItems
	default:
		return merr.InvalidParam("order_by must be user_id, media_length or media_count")
	}
	if s.Descending, err = descending(q.Get("dir")); err != nil {
		return err
	}
	for name, into := range map[string]*int64{"from_ts": &s.From, "until_ts": &s.Until} {
		if !q.Has(name) {
			continue
		}
		if *into, err = strconv.ParseInt(q.Get(name), 10, 64); err != nil || *into < 0 {
			return merr.InvalidParam("Query parameter " + name + " must be a time in milliseconds")
		}
	}
	if q.Has("until_ts") && s.Until <= s.From {
		return merr.InvalidParam("Query parameter until_ts must be greater than from_ts.")
	}
	found, total, err := m.store.Statistics(r.Context(), s)
	if err != nil {
		return err
	}
	found = found[min(from, len(found)):]
	users := make([]id.User, len(found))
	for n, u := range found {
		users[n] = id.User(u.Who)
	}
	profiles, err := m.users.Profiles(r.Context(), users)
	if err != nil {
		return err
	}
	list := make([]map[string]any, len(found))
	for n, u := range found {
		list[n] = map[string]any{"user_id": u.Who, "displayname": profiles[id.User(u.Who)].Displayname, "media_count": u.Items, "media_length": u.Bytes}
	}
	answer := map[string]any{"users": list, "total": total}
	if next := from + len(found); len(found) > 0 && int64(next) < total {
		answer["next_token"] = next
	}
	return httpx.OK(w, answer)
}

// descending reads dir.
func descending(dir string) (bool, error) {
	switch dir {
	case "", "f":
		return false, nil
	case "b":
		return true, nil
	}
	return false, merr.InvalidParam("dir must be f or b")
}
