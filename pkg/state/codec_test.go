package state

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func genEntries() *rapid.Generator[[]entry] {
	return rapid.Custom(func(t *rapid.T) []entry {
		keys := rapid.SliceOfNDistinct(genKey(), 0, 200, rapid.ID).Draw(t, "keys")
		slices.SortFunc(keys, compareKeys)
		es := make([]entry, len(keys))
		for i, k := range keys {
			es[i] = newEntry(encodeKey(k), rapid.Int64Range(-3, 1<<40).Draw(t, "nid"))
		}
		return es
	})
}

func sameEntries(a, b []entry) bool {
	return slices.EqualFunc(a, b, func(x, y entry) bool { return x.key() == y.key() && x.nid == y.nid })
}

func TestCodecRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		es, sid := genEntries().Draw(t, "entries"), rapid.Int64Range(1, 1<<50).Draw(t, "sid")
		got, err := decode(sid, encode(sid, es))
		if err != nil || !sameEntries(got, es) {
			t.Fatalf("%v: %v; want %v", err, got, es)
		}
	})
}

func TestKeyRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genKey().Draw(t, "a"), genKey().Draw(t, "b")
		ea, eb := encodeKey(a), encodeKey(b)
		if decodeKey(ea) != a || !validKey(ea) {
			t.Fatalf("%q -> %q -> %q", a, ea, decodeKey(ea))
		}
		if (ea < eb) != (compareKeys(a, b) < 0) || (ea == eb) != (a == b) {
			t.Fatalf("order of %q and %q is not that of their keys", ea, eb)
		}
	})
}

// TestStoredFormIsStable pins the format: rows written by an older release must be
// read for ever.
func TestStoredFormIsStable(t *testing.T) {
	got := encode(1000, []entry{
		newEntry(encodeKey(Key{"m.room.member", "@a:x"}), 1001),
		newEntry(encodeKey(Key{"m.room.member", "@ab:x"}), 0),
		newEntry(encodeKey(Key{"m.room.topic", ""}), 900),
	})
	want := "\x00\x01\x03" + "\x10\x06a:x\x02" + "\x11\x07b:x" + "\x07\x0etopic\x00\x00\xc9\x01"
	if string(got) != want {
		t.Fatalf("%q; want %q", got, want)
	}
}

func FuzzDecode(f *testing.F) {
	long := make([]entry, 0, 40)
	for i := range 40 {
		long = append(long, newEntry(encodeKey(Key{"m.room.member", "@user" + string(rune('A'+i)) + ":x"}), int64(i+1)))
	}
	f.Add([]byte(nil))
	f.Add(encode(7, nil))
	f.Add(encode(7, long[:3]))
	f.Add(encode(7, long))
	f.Add([]byte("\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Add([]byte("\x01\x28\xb5\x2f\xfd"))
	f.Fuzz(func(t *testing.T, b []byte) {
		es, err := decode(7, b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%v is not ErrCorrupt", err)
			}
			return
		}
		again, err := decode(7, encode(7, es))
		if err != nil || !sameEntries(es, again) {
			t.Fatalf("%v: %v; want %v", err, again, es)
		}
		m := Map{}.apply(es)
		n := 0
		for range m.All() {
			n++
		}
		if n != m.Len() {
			t.Fatal("map of decoded entries has another length")
		}
	})
}
