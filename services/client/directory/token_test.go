package directory

import (
	"encoding/json"
	"testing"
)

// A place in the directory survives its token; anything else is refused.
func FuzzDirectoryToken(f *testing.F) {
	for _, seed := range []string{"", "n", "n1_!a:b", "p0_!AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "n-1_!a:b", "x1_!a:b", "n1_", "n1!a:b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, since string) {
		q := publicRequest{Since: since}
		got, err := q.local()
		if err != nil || since == "" {
			return
		}
		place := got.After
		if place == nil {
			place = got.Before
		}
		if place == nil || place.Joined < 0 || place.Room == "" {
			t.Errorf("%q: %v", since, got)
		}
	})
}

// Client-server API, "DELETE /directory/room/{roomAlias}": the alias leaves the canonical aliases, too.
func TestWithoutAlias(t *testing.T) {
	for content, want := range map[string]string{
		`{"alias":"#a:b","alt_aliases":["#a:b","#c:d"]}`: `{"alt_aliases":["#c:d"]}`, `{"alt_aliases":["#a:b"]}`: `{}`, `{"alias":"#c:d"}`: "",
	} {
		got, changed := withoutAlias([]byte(content), "#a:b")
		raw, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		if changed != (want != "") || (changed && string(raw) != want) {
			t.Errorf("%s: %s %v", content, raw, changed)
		}
	}
}
