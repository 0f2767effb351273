package timeline

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"

	"hanse/pkg/search"
)

// searchPage is what a next_batch token says. It is no secret and needs no signature: who makes one up sees no more than by
// other requests.
type searchPage struct {
	byRank       bool
	after        search.Key
	group, value string // a page of one group only; "" for all
}

// token is where the next page begins.
func (s *searcher) token(p searchPage) string {
	if s.page != nil && p.group == "" { // the next page of the same group
		p.group, p.value = s.page.group, s.page.value
	}
	p.byRank, p.after = s.query.ByRank, *s.next
	return p.encode()
}

// pageJSON is the form of a token.
type pageJSON struct {
	Rank   bool   `json:"r,omitempty"`
	Length int64  `json:"l,omitempty"`
	TS     int64  `json:"t"`
	Part   uint32 `json:"p"`
	NID    int64  `json:"n"`
	Group  string `json:"g,omitempty"`
	Value  string `json:"v,omitempty"`
}

func (p *searchPage) encode() string {
	b, err := json.Marshal(pageJSON{p.byRank, p.after.Length, p.after.TS, p.after.Part, p.after.NID, p.group, p.value})
	if err != nil {
		panic(err) // there is nothing in it that could not be marshalled
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// parseSearchPage reads what encode wrote, and nothing else.
func parseSearchPage(text string) (*searchPage, error) {
	invalid := errors.New("not a token")
	if len(text) > 1000 {
		return nil, invalid
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, invalid
	}
	var j pageJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return nil, invalid
	}
	p := &searchPage{byRank: j.Rank, after: search.Key{Length: j.Length, TS: j.TS, Part: j.Part, NID: j.NID}, group: j.Group, value: j.Value}
	if p.encode() != text || p.group != "" && p.group != "room_id" && p.group != "sender" || p.after.Part > math.MaxInt32 {
		return nil, invalid
	}
	return p, nil
}
