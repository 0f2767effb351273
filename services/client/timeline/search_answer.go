package timeline

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"

	"github.com/tidwall/gjson"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/services/client/access"
	"hanse/services/client/core"
	"hanse/services/client/filter"
)

// answer writes the results.
func (s *searcher) answer(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	if s.want.Context != nil {
		for _, res := range s.results {
			if err := s.addContext(ctx, res); err != nil {
				return err
			}
		}
	}
	rendered, err := s.render(ctx, r)
	if err != nil {
		return err
	}
	results := make([]any, len(s.results))
	for i, res := range s.results {
		one := map[string]any{"rank": res.Rank(&s.query), "result": json.RawMessage(rendered[res.event])}
		if s.want.Context != nil {
			if one["context"], err = s.context(ctx, res, rendered); err != nil {
				return err
			}
		}
		results[i] = one
	}
	// The index also has events that the user may not see. They must not count, or the count tells what they say.
	count := len(results)
	if s.next != nil {
		count++
	}
	out := map[string]any{"results": results, "count": count, "highlights": nonNil(s.highlights)}
	if s.next != nil {
		out["next_batch"] = s.token(searchPage{})
	}
	if len(s.want.Groupings.By) > 0 {
		out["groups"] = s.groups()
	}
	if s.want.State {
		if out["state"], err = s.states(ctx, r); err != nil {
			return err
		}
	}
	return httpx.OK(w, map[string]any{"search_categories": map[string]any{"room_events": out}})
}

func nonNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// addContext reads the events around a result.
func (s *searcher) addContext(ctx context.Context, res *searchResult) (err error) {
	count := func(n *int) int {
		if n == nil {
			return defaultAround
		}
		return min(max(*n, 0), maxAround)
	}
	f := new(filter.Room)
	place := res.event.Place()
	if res.before, res.start, err = s.c.around(ctx, res.access, f, place, count(s.want.Context.Before), true); err != nil {
		return err
	}
	res.after, res.end, err = s.c.around(ctx, res.access, f, place, count(s.want.Context.After), false)
	return err
}

// render renders all events of the answer's timelines, those of a room together.
func (s *searcher) render(ctx context.Context, r *http.Request) (map[*roomdb.Event][]byte, error) {
	ofRoom := make(map[*access.View][]*roomdb.Event)
	for _, res := range s.results {
		ofRoom[res.access] = append(ofRoom[res.access], slices.Concat(res.before, []*roomdb.Event{res.event}, res.after)...)
	}
	rendered := make(map[*roomdb.Event][]byte)
	for a, events := range ofRoom {
		all, err := s.c.renderTimeline(ctx, r, a, events)
		if err != nil {
			return nil, err
		}
		for i, e := range events {
			rendered[e] = all[i]
		}
	}
	return rendered, nil
}

// context is the context of a result.
func (s *searcher) context(ctx context.Context, res *searchResult, rendered map[*roomdb.Event][]byte) (map[string]any, error) {
	list := func(events []*roomdb.Event) []json.RawMessage {
		out := make([]json.RawMessage, len(events))
		for i, e := range events {
			out[i] = rendered[e]
		}
		return out
	}
	out := map[string]any{"start": res.start.Token(), "end": res.end.Token(), "events_before": list(res.before), "events_after": list(res.after)}
	if !s.want.Context.Profile {
		return out, nil
	}
	m, err := s.c.Rooms.State(ctx, res.event.Part, res.event.SID)
	if err != nil {
		return nil, err
	}
	members, err := s.c.sendersIn(ctx, res.access.Room, m, slices.Concat(res.before, []*roomdb.Event{res.event}, res.after))
	if err != nil {
		return nil, err
	}
	profiles := make(map[string]any, len(members))
	for _, e := range members {
		profile := make(map[string]string)
		for _, field := range []string{"displayname", "avatar_url"} {
			if v := gjson.GetBytes(e.Content, field); v.Type == gjson.String {
				profile[field] = v.Str
			}
		}
		profiles[*e.StateKey] = profile
	}
	out["profile_info"] = profiles
	return out, nil
}

// groups says which results belong together.
func (s *searcher) groups() map[string]any {
	out := make(map[string]any)
	for _, by := range s.want.Groupings.By {
		type group struct {
			Results []id.Event `json:"results"`
			Order   int        `json:"order"`
			Next    string     `json:"next_batch,omitempty"`
		}
		groups := make(map[string]*group)
		for _, res := range s.results {
			value := string(res.event.Sender)
			if by.Key == "room_id" {
				value = string(res.access.Room.ID)
			}
			if groups[value] == nil {
				groups[value] = &group{Order: len(groups) + 1}
				if s.next != nil {
					groups[value].Next = s.token(searchPage{group: by.Key, value: value})
				}
			}
			groups[value].Results = append(groups[value].Results, res.event.ID)
		}
		out[by.Key] = groups
	}
	return out
}

// states is the current state of the rooms that have results, as the user may see it. Of the members there are those who sent the
// results.
func (s *searcher) states(ctx context.Context, r *http.Request) (map[id.Room]json.RawMessage, error) {
	ofRoom := make(map[*access.View][]*roomdb.Event)
	for _, res := range s.results {
		ofRoom[res.access] = append(ofRoom[res.access], res.event)
	}
	out := make(map[id.Room]json.RawMessage, len(ofRoom))
	for a, results := range ofRoom {
		m, err := s.c.access.State(ctx, a)
		if err != nil {
			return nil, err
		}
		var nids []int64
		for key, nid := range m.All() {
			if key.Type != core.TypeMember {
				nids = append(nids, nid)
			}
		}
		events, err := s.c.Rooms.InOrder(ctx, a.Room.Part, nids)
		if err != nil {
			return nil, err
		}
		members, err := s.c.sendersIn(ctx, a.Room, m, results)
		if err != nil {
			return nil, err
		}
		rendered, err := s.c.render(ctx, r, append(events, members...))
		if err != nil {
			return nil, err
		}
		b := []byte{'['}
		for i, e := range rendered {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, e...)
		}
		out[a.Room.ID] = append(b, ']')
	}
	return out, nil
}
