package media

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/mediastore"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// leastMillis is a time that somebody gives in seconds by mistake: nothing is deleted by a date of 1970.
const leastMillis = 30_000_000_000

// before reads before_ts.
func before(r *http.Request) (time.Time, error) {
	ms, err := strconv.ParseInt(r.URL.Query().Get("before_ts"), 10, 64)
	if err != nil || ms < 0 {
		return time.Time{}, merr.InvalidParam("before_ts must be a time in milliseconds")
	}
	if ms < leastMillis {
		return time.Time{}, merr.InvalidParam("before_ts is from the year 1970: it must be in milliseconds")
	}
	return time.UnixMilli(ms), nil
}

// adminPurge deletes media of other servers that were not used since a time.
func (m *Media) adminPurge(w http.ResponseWriter, r *http.Request) error {
	since, err := before(r)
	if err != nil {
		return err
	}
	n := 0
	err = m.store.DeleteMatching(r.Context(), m.store.AllParts(), mediastore.Filter{Remote: true, Before: since}, func(*mediastore.Media) { n++ })
	m.metrics.removed.WithLabelValues("deleted").Add(float64(n))
	if err != nil {
		return err
	}
	return httpx.OK(w, map[string]int{"deleted": n})
}

// adminDeleteOld deletes media of ours that were not used since a time and are larger than so many bytes.
func (m *Media) adminDeleteOld(w http.ResponseWriter, r *http.Request) error {
	since, err := before(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	f := mediastore.Filter{Before: since, Larger: -1}
	if text := q.Get("size_gt"); text != "" {
		if f.Larger, err = strconv.ParseInt(text, 10, 64); err != nil || f.Larger < 0 {
			return merr.InvalidParam("size_gt must be a number of bytes")
		}
	}
	keep, err := flag(q.Get("keep_profiles"), true)
	if err != nil {
		return merr.InvalidParam("keep_profiles must be true or false")
	}
	if name := httpx.Param(r, "serverName"); name != "" {
		if f.Origin, err = id.ParseServer(name); err != nil || !m.servers.IsLocal(f.Origin) {
			return merr.InvalidParam("Can only delete local media")
		}
	}
	if keep {
		if f.Keep, err = m.avatars(r.Context()); err != nil {
			return err
		}
	}
	deleted := []string{}
	err = m.store.DeleteMatching(r.Context(), m.store.AllParts(), f, func(media *mediastore.Media) { deleted = append(deleted, media.Media) })
	m.metrics.removed.WithLabelValues("deleted").Add(float64(len(deleted)))
	if err != nil {
		return err
	}
	return httpx.OK(w, map[string]any{"deleted_media": deleted, "total": len(deleted)})
}

// avatars returns what tells which of some media are avatars of rooms or users. Those of rooms it reads once.
func (m *Media) avatars(ctx context.Context) (func(context.Context, []*mediastore.Media) (map[mediastore.ID]bool, error), error) {
	ofRooms, err := m.roomAvatars(ctx)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, page []*mediastore.Media) (map[mediastore.ID]bool, error) {
		uris := make([]string, len(page))
		for n, media := range page {
			uris[n] = media.ID.String()
		}
		ofUsers, err := m.users.AvatarsUsed(ctx, uris)
		if err != nil {
			return nil, err
		}
		used := make(map[mediastore.ID]bool)
		for n, media := range page {
			used[media.ID] = ofUsers[uris[n]] || ofRooms[media.ID]
		}
		return used, nil
	}, nil
}

// roomAvatars returns the media of ours that are avatars of rooms.
func (m *Media) roomAvatars(ctx context.Context) (map[mediastore.ID]bool, error) {
	used := make(map[mediastore.ID]bool)
	err := m.rooms.EachRooms(ctx, func(rooms []*roomdb.Room) error {
		refs := make([]state.Ref, len(rooms))
		for n, r := range rooms {
			refs[n] = state.Ref{Part: r.Part, SID: r.SID}
		}
		states, err := m.rooms.States(ctx, refs)
		if err != nil {
			return err
		}
		wanted := make(map[uint32][]int64)
		for _, ref := range refs {
			if nid, ok := states[ref].Get(state.Key{Type: "m.room.avatar"}); ok {
				wanted[ref.Part] = append(wanted[ref.Part], nid)
			}
		}
		events, err := m.rooms.EventsIn(ctx, wanted)
		if err != nil {
			return err
		}
		for _, of := range events {
			for _, e := range of {
				for _, i := range mediaIn(e.Content) {
					if m.servers.IsLocal(i.Origin) {
						used[i] = true
					}
				}
			}
		}
		return nil
	})
	return used, err
}
