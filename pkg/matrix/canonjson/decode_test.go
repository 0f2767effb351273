package canonjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/tidwall/gjson"
)

type decoded struct {
	Type    string                       `json:"edu_type"`
	Key     string                       `json:"key"`
	N       int64                        `json:"n"`
	Content json.RawMessage              `json:"content"`
	Inner   []map[string]*decodedInner   `json:"inner"`
	Raw     map[string]map[string]string `json:"raw"`
}

type decodedInner struct {
	Sender string `json:"sender"`
}

// MSC4458: what one reader takes, no other reads differently.
func TestDecode(t *testing.T) {
	for _, c := range []struct {
		in   string
		want decoded
		err  error
	}{
		{in: `{"edu_type":"a","edu_type":"b"}`, want: decoded{Type: "b"}},
		{in: `{"EDU_TYPE":"a"}`},
		{in: `{"edu_type":"a","EDU_TYPE":"b"}`, want: decoded{Type: "a"}},
		{in: "{\"key\":\"a\",\"\u212aey\":\"b\"}", want: decoded{Key: "a"}},
		{in: "{\"inner\":[{\"x\":{\"sender\":\"a\",\"\u017fender\":\"b\"}}]}", want: decoded{Inner: []map[string]*decodedInner{{"x": {"a"}}}}},
		{in: `{"inner":[{"x":{"sender":"a"}}],"inner":[{"x":{}}]}`, want: decoded{Inner: []map[string]*decodedInner{{"x": {}}}}},
		{in: `{"raw":{"a":{"b":"c"}},"raw":{"a":{"d":"e"}}}`, want: decoded{Raw: map[string]map[string]string{"a": {"d": "e"}}}},
		{in: ` { "n" : 1 , "edu\u005ftype" : "\ud83d\ude00" } `, want: decoded{N: 1, Type: "😀"}},
		{in: `{"content": {"a": [1.5]}}`, want: decoded{Content: json.RawMessage(`{"a": [1.5]}`)}},
		{in: `{"key":"\ud800"}`, err: ErrUTF8},
		{in: `{"content":{"\udc00":1}}`, err: ErrUTF8},
		{in: "{\"key\":\"\xff\"}", err: ErrUTF8},
		{in: `{"key":"a"} {}`, err: ErrSyntax},
		{in: `{"key":"a",}`, err: ErrSyntax},
		{in: `{"n":NaN}`, err: ErrSyntax},
		{in: "{\"content\":" + string(bytes.Repeat([]byte("["), 5000)) + string(bytes.Repeat([]byte("]"), 5000)) + "}", err: ErrDepth},
	} {
		var got decoded
		err := Decode([]byte(c.in), &got)
		if !errors.Is(err, c.err) || err == nil && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%.100q: %+v %v", c.in, got, err)
		}
	}
	for _, n := range []string{`1.0`, `1e2`, `9223372036854775808`} {
		if err := Decode([]byte(`{"n":`+n+`}`), new(decoded)); err == nil {
			t.Errorf("%s is an integer", n)
		}
	}
}

// FuzzReaders compares the readers of JSON: what Check lets pass has a loose canonical form, that form means to encoding/json
// what the input means, and it reads the same by member, whoever reads it.
func FuzzReaders(f *testing.F) {
	for _, s := range []string{`{"a":1,"a":2}`, `{"a":{"b":1},"a":{"c":2}}`, `{"a":"\ud83d\ude00\u0000"}`, `{"\u0061":1.5e3,"b":-0}`, `[1,{"x":null}]`,
		`{"a":9007199254740993}`, `{"edu_type":"x","EDU_TYPE":"y"}`, "{\"\u212aey\":\"x\"}", `{"a":"\ud800"}`, "{\"a\":\"\xff\"}", `{"n":1e400}`, ` {} `} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		loose, err := CanonicalLoose(b)
		if checked := Check(b, MaxDepth); (checked == nil) != (err == nil) {
			t.Fatalf("%q: Check says %v, CanonicalLoose %v", b, checked, err)
		}
		if strict, serr := Canonical(b); serr == nil && !bytes.Equal(strict, loose) {
			t.Fatalf("%q: %q strictly, %q loosely, %v", b, strict, loose, err)
		}
		if err != nil {
			return
		}
		if !json.Valid(b) {
			t.Fatalf("encoding/json does not take %q", b)
		}
		if again, err := CanonicalLoose(loose); err != nil || !bytes.Equal(again, loose) {
			t.Fatalf("%q: the canonical form of %q is %q, %v", b, loose, again, err)
		}
		var x, y decoded
		if ex, ey := Decode(b, &x), Decode(loose, &y); (ex == nil) != (ey == nil) {
			t.Fatalf("%q: %v, canonical: %v", b, ex, ey)
		} else if ex == nil && (x.Type != y.Type || x.Key != y.Key || x.N != y.N || !reflect.DeepEqual(x.Inner, y.Inner) || !reflect.DeepEqual(x.Raw, y.Raw)) {
			t.Fatalf("%q: %+v, canonical: %+v", b, x, y)
		}
		if o, err := ParseObject(loose); err == nil {
			var all map[string]json.RawMessage
			if err := json.Unmarshal(loose, &all); err != nil || len(all) != len(o) {
				t.Fatalf("%q: %d members, encoding/json has %d, %v", loose, len(o), len(all), err)
			}
			for _, m := range o {
				found, ok := Find(loose, m.Key)
				if !ok || !bytes.Equal(found, m.Raw) || !bytes.Equal(all[m.Key], m.Raw) {
					t.Fatalf("%q: member %q is %q, %q and %q", loose, m.Key, m.Raw, found, all[m.Key])
				}
				if text, ok := String(m.Raw); ok && m.Raw[0] == '"' && gjson.ParseBytes(m.Raw).Str != text {
					t.Fatalf("%q: %q and, by gjson, %q", loose, text, gjson.ParseBytes(m.Raw).Str)
				}
			}
		}
	})
}

// Summary and Label stand embedded in decodedRoom, as encoding/json allows: by pointer, and by a type that is no struct.
type (
	Summary struct {
		Name string `json:"name"`
	}
	Label       string
	decodedRoom struct {
		*Summary
		Label
		ID string `json:"id"`
	}
)

func TestDecodeEmbedded(t *testing.T) {
	var got decodedRoom
	if err := Decode([]byte(`{"id":"a","name":"b","NAME":"c","Label":"d","label":"e"}`), &got); err != nil {
		t.Fatal(err)
	}
	if got.ID != "a" || got.Summary == nil || got.Name != "b" || got.Label != "d" {
		t.Errorf("%+v, %+v", got, got.Summary)
	}
}
