package people

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
	"hanse/services/client/core"
)

const (
	searchDefault = 10
	searchMax     = 50
	// searchCandidates bounds the local users that are looked at, of each shard.
	searchCandidates = 200
	// searchRooms and searchMembers bound the rooms, and the members of one, in which users of other servers are looked
	// for.
	searchRooms   = 100
	searchMembers = 1000
)

type foundUser struct {
	UserID      id.User `json:"user_id"`
	DisplayName *string `json:"display_name,omitempty"`
	AvatarURL   *string `json:"avatar_url,omitempty"`
}

// searchUsers answers POST /user_directory/search (client-server API, "User Directory"): the searcher, users whom the
// searcher shares a room with, and those in rooms that are public or open to the world. Of the latter, users of other
// servers are found in published rooms.
func (c *People) searchUsers(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		Term  *string `json:"search_term"`
		Limit *int    `json:"limit"`
	}
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	if q.Term == nil {
		return merr.MissingParam("search_term")
	}
	limit := searchDefault
	if q.Limit != nil {
		if *q.Limit < 0 {
			return merr.InvalidParam("limit must not be negative")
		}
		limit = min(*q.Limit, searchMax)
	}
	if err := c.Limit(r, "search"); err != nil {
		return err
	}
	term := strings.TrimSpace(*q.Term)
	words := userdb.Words(strings.TrimPrefix(cutServer(term), "@"))
	if len(words) == 0 {
		return httpx.OK(w, map[string]any{"limited": false, "results": []foundUser{}})
	}
	ctx, me := r.Context(), core.Me(r).User
	found, err := c.findLocal(ctx, me, words)
	if err != nil {
		return err
	}
	remote, err := c.findInRooms(ctx, me, words)
	if err != nil {
		return err
	}
	results := rank(append(found, remote...), words[0])
	limited := len(results) > limit
	if limited {
		results = results[:limit]
	}
	return httpx.OK(w, map[string]any{"limited": limited, "results": results})
}

// cutServer drops the server name of a term that is a user id.
func cutServer(term string) string {
	if strings.HasPrefix(term, "@") {
		term, _, _ = strings.Cut(term, ":")
	}
	return term
}

// findLocal finds local users by the words of the directory.
func (c *People) findLocal(ctx context.Context, searcher id.User, words []string) ([]foundUser, error) {
	users, err := c.Users.FindUsers(ctx, words[0], searchCandidates)
	if err != nil {
		return nil, err
	}
	if !c.searchAll {
		if users, err = c.visible(ctx, searcher, users); err != nil {
			return nil, err
		}
	}
	profiles, err := c.Users.Profiles(ctx, users)
	if err != nil {
		return nil, err
	}
	var out []foundUser
	for _, u := range users {
		p, ok := profiles[u]
		if ok && matchesAll(u, p.Displayname, words) {
			out = append(out, foundUser{u, p.Displayname, p.AvatarURL})
		}
	}
	return out, nil
}

// visible keeps the searcher, and those of local users whom the searcher shares a room with, or who are in a public room.
func (c *People) visible(ctx context.Context, searcher id.User, users []id.User) ([]id.User, error) {
	mine, err := c.Users.JoinedRooms(ctx, searcher)
	if err != nil {
		return nil, err
	}
	shared := make(map[id.Room]bool, len(mine))
	for _, r := range mine {
		shared[r.Room] = true
	}
	theirs, err := c.Users.JoinedRoomsOf(ctx, users)
	if err != nil {
		return nil, err
	}
	var out, unclear []id.User
	candidates := make(map[id.Room]bool)
	for _, u := range users {
		if u == searcher || slices.ContainsFunc(theirs[u], func(r userdb.JoinedRoom) bool { return shared[r.Room] }) {
			out = append(out, u)
			continue
		}
		unclear = append(unclear, u)
		for i, r := range theirs[u] {
			if i < searchRooms {
				candidates[r.Room] = true
			}
		}
	}
	public, err := c.publicRooms(ctx, candidates)
	if err != nil {
		return nil, err
	}
	for _, u := range unclear {
		if slices.ContainsFunc(theirs[u], func(r userdb.JoinedRoom) bool { return public[r.Room] }) {
			out = append(out, u)
		}
	}
	return out, nil
}

// publicRooms keeps those of the rooms that are in the directory, or that anybody may join or read.
func (c *People) publicRooms(ctx context.Context, rooms map[id.Room]bool) (map[id.Room]bool, error) {
	ids := make([]id.Room, 0, len(rooms))
	for r := range rooms {
		ids = append(ids, r)
	}
	if len(ids) == 0 {
		return nil, nil
	}
	found, err := c.Rooms.Rooms(ctx, ids)
	if err != nil {
		return nil, err
	}
	states, err := c.sharing.States(ctx, found)
	if err != nil {
		return nil, err
	}
	public := make(map[id.Room]bool)
	rules := make(map[uint32][]int64)
	roomOf := make(map[eventRef]id.Room)
	for _, r := range found {
		if r.Published {
			public[r.ID] = true
			continue
		}
		for _, typ := range []string{"m.room.join_rules", core.TypeVisibility} {
			if nid, ok := states[state.Ref{Part: r.Part, SID: r.SID}].Get(state.Key{Type: typ}); ok {
				rules[r.Part] = append(rules[r.Part], nid)
				roomOf[eventRef{r.Part, nid}] = r.ID
			}
		}
	}
	events, err := c.Rooms.EventsIn(ctx, rules)
	if err != nil {
		return nil, err
	}
	for part, byNID := range events {
		for nid, ev := range byNID {
			if gjson.GetBytes(ev.Content, "join_rule").Str == "public" || gjson.GetBytes(ev.Content, "history_visibility").Str == "world_readable" {
				public[roomOf[eventRef{part, nid}]] = true
			}
		}
	}
	return public, nil
}

type eventRef struct {
	part uint32
	nid  int64
}

// findInRooms finds users of other servers among the members of the searcher's rooms and of published ones, as far as
// these are not too large.
func (c *People) findInRooms(ctx context.Context, searcher id.User, words []string) ([]foundUser, error) {
	joined, err := c.Users.JoinedRooms(ctx, searcher)
	if err != nil {
		return nil, err
	}
	ids := make([]id.Room, 0, searchRooms)
	for _, r := range joined[:min(len(joined), searchRooms)] {
		ids = append(ids, r.Room)
	}
	rooms, err := c.Rooms.Rooms(ctx, ids)
	if err != nil {
		return nil, err
	}
	published, err := c.Rooms.PublishedShared(ctx, searchMembers, searchRooms)
	if err != nil {
		return nil, err
	}
	maps.Copy(rooms, published)
	for roomID, r := range rooms {
		if r.Joined > searchMembers || r.Joined == r.JoinedLocal {
			delete(rooms, roomID)
		}
	}
	states, err := c.sharing.States(ctx, rooms)
	if err != nil {
		return nil, err
	}
	seen := make(map[id.User]bool)
	var out []foundUser
	for _, room := range rooms {
		if err := c.findIn(ctx, room, states[state.Ref{Part: room.Part, SID: room.SID}], words, seen, &out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (c *People) findIn(ctx context.Context, room *roomdb.Room, m state.Map, words []string, seen map[id.User]bool, out *[]foundUser) error {
	events := map[uint32][]int64{}
	for key, nid := range m.Type("m.room.member") {
		if u := id.User(key.StateKey); !seen[u] && !c.IsLocal(u) {
			events[room.Part] = append(events[room.Part], nid)
		}
	}
	found, err := c.Rooms.EventsIn(ctx, events)
	if err != nil {
		return err
	}
	for _, ev := range found[room.Part] {
		var content struct {
			Membership  string  `json:"membership"`
			DisplayName *string `json:"displayname"`
			AvatarURL   *string `json:"avatar_url"`
		}
		if ev.StateKey == nil || json.Unmarshal(ev.Content, &content) != nil || content.Membership != "join" {
			continue
		}
		u := id.User(*ev.StateKey)
		if !seen[u] && matchesAll(u, content.DisplayName, words) {
			*out = append(*out, foundUser{u, content.DisplayName, content.AvatarURL})
		}
		seen[u] = true
	}
	return nil
}

// matchesAll reports whether each word of the search begins one of the user's words.
func matchesAll(u id.User, name *string, words []string) bool {
	texts := []string{u.Localpart()}
	if name != nil {
		texts = append(texts, *name)
	}
	have := append(userdb.Words(texts...), strings.ToLower(u.Localpart()))
	for _, w := range words {
		if !slices.ContainsFunc(have, func(h string) bool { return strings.HasPrefix(h, w) }) {
			return false
		}
	}
	return true
}

// rank puts exact matches of the localpart first, then those with a profile, then by user id; each user once.
func rank(users []foundUser, word string) []foundUser {
	score := func(f foundUser) int {
		switch {
		case strings.EqualFold(f.UserID.Localpart(), word):
			return 0
		case f.DisplayName != nil || f.AvatarURL != nil:
			return 1
		}
		return 2
	}
	slices.SortFunc(users, func(a, b foundUser) int {
		return cmp.Or(cmp.Compare(score(a), score(b)), cmp.Compare(a.UserID, b.UserID))
	})
	users = slices.CompactFunc(users, func(a, b foundUser) bool { return a.UserID == b.UserID })
	if users == nil {
		users = []foundUser{}
	}
	return users
}
