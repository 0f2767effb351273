package mxclient

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"testing"
)

var scanSeeds = []string{
	`{"next_batch":"s1"}`,
	`{"next_batch":"s\u00e91","rooms":{"join":{"!a:x":{"timeline":{"limited":true,"prev_batch":"p","events":[{"event_id":"$1","type":"m.room.message","sender":"@a:x","content":{"body":"x \"y\" \\","n":[1,{"a":null}]},"unsigned":{"age":-1.5e3}}]}},"!b:x":{"state":{"events":[]}}},"leave":{}}}`,
	` { "rooms" : { "join" : { "!a:x" : { "timeline" : { "events" : [ ] , "limited" : false } } } } , "next_batch" : "z" } `,
	`{"next_batch":"a","presence":{"events":[{"content":{"x":"]}"},"type":"m.presence"}]},"rooms":{"join":{"!a":{"timeline":{"events":[{"content":{"body":5}}]}}}}}`,
	`{"next_batch":"a","rooms":{"join":{"!a":{"timeline":{"events":null,"prev_batch":null}}},"leave":null}}`,
	`{"next_batch":"a"`, `{`, `[]`, `{"next_batch":"a\`,
}

type scanned struct {
	next  string
	rooms map[string]ScannedRoom
}

func scanAll(raw []byte) (scanned, error) {
	out := scanned{rooms: map[string]ScannedRoom{}}
	next, err := ScanSync(raw, func(r *ScannedRoom) error {
		c := *r
		c.Events = append([]ScannedEvent{}, r.Events...)
		out.rooms[r.Room] = c
		return nil
	})
	out.next = next
	return out, err
}

// slow is the oracle.
func slow(raw []byte) (scanned, bool) {
	var in struct {
		NextBatch *string `json:"next_batch"`
		Rooms     struct {
			Join map[string]struct {
				Timeline *struct {
					Limited   *bool   `json:"limited"`
					PrevBatch *string `json:"prev_batch"`
					Events    []struct {
						ID      *string                     `json:"event_id"`
						Type    *string                     `json:"type"`
						Sender  *string                     `json:"sender"`
						Content *map[string]json.RawMessage `json:"content"`
					} `json:"events"`
				} `json:"timeline"`
			} `json:"join"`
		} `json:"rooms"`
	}
	if json.Unmarshal(raw, &in) != nil || in.NextBatch == nil || *in.NextBatch == "" {
		return scanned{}, false
	}
	str := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	out := scanned{next: *in.NextBatch, rooms: map[string]ScannedRoom{}}
	for id, r := range in.Rooms.Join {
		if r.Timeline == nil {
			continue
		}
		room := ScannedRoom{Room: id, PrevBatch: str(r.Timeline.PrevBatch), Events: []ScannedEvent{}}
		room.Limited = r.Timeline.Limited != nil && *r.Timeline.Limited
		for _, e := range r.Timeline.Events {
			ev := ScannedEvent{ID: str(e.ID), Type: str(e.Type), Sender: str(e.Sender)}
			if e.Content != nil {
				if b := (*e.Content)["body"]; len(b) > 0 && b[0] == '"' {
					if json.Unmarshal(b, &ev.Body) != nil {
						return scanned{}, false
					}
				}
			}
			room.Events = append(room.Events, ev)
		}
		out.rooms[id] = room
	}
	return out, true
}

func TestScanSync(t *testing.T) {
	for _, raw := range scanSeeds {
		got, err := scanAll([]byte(raw))
		want, ok := slow([]byte(raw))
		if (err == nil) != ok || ok && !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v %v\nwant %+v %v", raw, got, err, want, ok)
		}
	}
}

// FuzzScanSync: whatever the scanner reads from a sync answer as a server writes
// it, that is marshalled by encoding/json, is what encoding/json reads from it.
func FuzzScanSync(f *testing.F) {
	for _, s := range scanSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var v any
		if json.Unmarshal(raw, &v) != nil {
			_, _ = scanAll(raw) // accepted or refused, but no panic
			return
		}
		// Marshalling again removes double keys and bytes that are not UTF-8, about
		// which readers differ.
		clean, merr := json.Marshal(v)
		if merr != nil {
			t.Fatal(merr)
		}
		got, err := scanAll(clean)
		want, ok := slow(clean)
		if !ok || err != nil {
			return // null or another type where the oracle is lenient
		}
		// encoding/json matches keys without regard to case; the scanner does not.
		if !reflect.DeepEqual(got, want) && !sloppyKeys(v) {
			t.Errorf("%s:\n got %+v\nwant %+v", clean, got, want)
		}
	})
}

// sloppyKeys tells whether v has keys that are not lower-case ASCII.
func sloppyKeys(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			for _, c := range []byte(k) {
				if c >= 'A' && c <= 'Z' || c >= 0x80 {
					return true
				}
			}
			if sloppyKeys(e) {
				return true
			}
		}
	case []any:
		for _, e := range v {
			if sloppyKeys(e) {
				return true
			}
		}
	}
	return false
}

func BenchmarkScanSync(b *testing.B) {
	raw := []byte(scanSeeds[1])
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, err := ScanSync(raw, func(*ScannedRoom) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func TestScanSlide(t *testing.T) {
	var got []string
	pos, err := ScanSlide([]byte(`{"pos":"p1","lists":{"all_rooms":{"count":2}},"rooms":{
		"!a:x":{"initial":true,"timeline":[{"event_id":"$1","type":"m.room.message","content":{"body":"hi"}}],"limited":true,"prev_batch":"t1"},
		"!b:x":{"bump_stamp":3}},"extensions":{}}`), func(r *ScannedRoom) error {
		got = append(got, fmt.Sprint(r.Room, r.Limited, r.PrevBatch, r.Events))
		return nil
	})
	if want := []string{"!a:xtruet1[{$1 m.room.message  hi}]", "!b:xfalse[]"}; err != nil || pos != "p1" || !slices.Equal(got, want) {
		t.Errorf("%s %q, %v", pos, got, err)
	}
	for _, bad := range []string{``, `{}`, `{"pos":"p"} x`, `{"pos":"p","rooms":[]}`} {
		if _, err := ScanSlide([]byte(bad), func(*ScannedRoom) error { return nil }); err == nil {
			t.Errorf("%q is an answer", bad)
		}
	}
}
