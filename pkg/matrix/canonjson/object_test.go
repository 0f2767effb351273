package canonjson_test

import (
	"bytes"
	"testing"

	"hanse/pkg/matrix/canonjson"
)

func parse(t *testing.T, s string) canonjson.Object {
	t.Helper()
	o, err := canonjson.ParseObject([]byte(s))
	if err != nil {
		t.Fatalf("ParseObject(%s): %v", s, err)
	}
	return o
}

func TestObject(t *testing.T) {
	in := `{"a":{"x":[1,"]}"]},"b":"\"c","d":-12,"e":null}`
	o := parse(t, in)
	if got := string(o.Bytes()); got != in {
		t.Errorf("Bytes() = %s", got)
	}
	if raw, ok := o.Get("a"); !ok || string(raw) != `{"x":[1,"]}"]}` {
		t.Errorf("Get(a) = %s, %v", raw, ok)
	}
	if s, ok := o.String("b"); !ok || s != `"c` {
		t.Errorf("String(b) = %s, %v", s, ok)
	}
	if n, ok := o.Int("d"); !ok || n != -12 {
		t.Errorf("Int(d) = %d, %v", n, ok)
	}
	if _, ok := o.String("e"); ok {
		t.Error("null is a string")
	}
	if _, ok := o.Get("z"); ok {
		t.Error("a member that is not there")
	}
	if got := string(o.Without("a", "z", "e").Bytes()); got != `{"b":"\"c","d":-12}` {
		t.Errorf("Without = %s", got)
	}
	if got := string(o.Only("e", "d").Bytes()); got != `{"d":-12,"e":null}` {
		t.Errorf("Only = %s", got)
	}
	if got := string(o.Only("b", "d").With("c", []byte(`1`)).With("d", []byte(`2`)).With("z", []byte(`3`)).Bytes()); got != `{"b":"\"c","c":1,"d":2,"z":3}` {
		t.Errorf("With = %s", got)
	}
	if got := string(o.Bytes()); got != in {
		t.Errorf("the object changed: %s", got)
	}
	if got := string(parse(t, ` { "k" : [ 1 , 2 ] } `).Bytes()); got != `{"k":[ 1 , 2 ]}` {
		t.Errorf("with blanks: %s", got)
	}
}

func TestObjectRefusals(t *testing.T) {
	for _, s := range []string{``, `[]`, `{`, `{"a"`, `{"a":`, `{"a":}`, `{"a":1`, `{"a":1,`, `{"a":1,}`, `{"a":"x}`, `{"a":{"b":1}`, `{1:2}`, `{"a\`, `"{}"`} {
		if o, err := canonjson.ParseObject([]byte(s)); err == nil {
			t.Errorf("ParseObject(%s) = %s", s, o.Bytes())
		}
	}
}

func TestFind(t *testing.T) {
	in := []byte(` { "a\"b" : [1,"x}"] , "c":{"d":1},"d" : "e" } `)
	for key, want := range map[string]string{`a"b`: `[1,"x}"]`, "c": `{"d":1}`, "d": `"e"`} {
		if got, ok := canonjson.Find(in, key); !ok || string(got) != want {
			t.Errorf("Find(%s) = %s, %v", key, got, ok)
		}
	}
	for _, s := range []string{``, `{}`, `[]`, `{"b":1}`, `{"a"`, `{"a":`, `{"b":1,`, `"a"`, `{"b":{"a":1}}`} {
		if got, ok := canonjson.Find([]byte(s), "a"); ok {
			t.Errorf("Find in %s = %s", s, got)
		}
	}
}

// Each hands out what ParseObject finds.
func TestEach(t *testing.T) {
	for _, in := range []string{`{}`, `{"a":{"x":[1,"]}"]},"b":"\"c\\","d":-12,"e":null}`, `{"a":"\\","b":"\\\"}"}`} {
		got := make(canonjson.Object, 0, 4)
		if !canonjson.Each([]byte(in), func(name, value []byte) {
			got = append(got, canonjson.Member{Key: string(name[1 : len(name)-1]), Raw: value})
		}) {
			t.Fatalf("Each(%s) refuses", in)
		}
		if string(got.Bytes()) != in {
			t.Errorf("Each(%s) hands out %s", in, got.Bytes())
		}
		if want := parse(t, in); len(want) != len(got) {
			t.Errorf("%d members of %s, not %d", len(got), in, len(want))
		}
	}
	for _, s := range []string{``, `[]`, `{`, `{"a"`, `{"a":`, `{"a":}`, `{"a":1`, `{"a":1,`, `{"a":1,}`, `{"a":"x}`, `{"a":{"b":1}`, `{1:2}`, `{"a\`, `"{}"`, `{}}`, ` {}`, `{"a":1}x`} {
		if canonjson.Each([]byte(s), func(_, _ []byte) {}) {
			t.Errorf("Each(%s) takes it", s)
		}
	}
}

func TestElements(t *testing.T) {
	got, err := canonjson.Elements([]byte(` [ "a,b" , [1,2], {"]":1},null ] `))
	if err != nil || len(got) != 4 || string(bytes.Join(got, []byte("|"))) != `"a,b"|[1,2]|{"]":1}|null` {
		t.Errorf("Elements = %s, %v", got, err)
	}
	for _, s := range []string{``, `{}`, `[`, `[1`, `[1,`, `[1,]`, `[,]`, `["a]`} {
		if got, err := canonjson.Elements([]byte(s)); err == nil {
			t.Errorf("Elements(%s) = %s", s, got)
		}
	}
}
