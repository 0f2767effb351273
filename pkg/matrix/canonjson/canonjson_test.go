package canonjson_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"hanse/pkg/matrix/canonjson"
)

// Appendices, section "Canonical JSON", "Examples".
func TestSpecificationExamples(t *testing.T) {
	for in, want := range map[string]string{
		`{}`: `{}`,
		"{\n    \"one\": 1,\n    \"two\": \"Two\"\n}": `{"one":1,"two":"Two"}`,
		"{\n    \"b\": \"2\",\n    \"a\": \"1\"\n}":   `{"a":"1","b":"2"}`,
		`{"b":"2","a":"1"}`:                           `{"a":"1","b":"2"}`,
		`{"a": "日本語"}`:                                `{"a":"日本語"}`,
		`{"本": 2, "日": 1}`:                            `{"日":1,"本":2}`,
		`{"a": "\u65E5"}`:                             `{"a":"日"}`,
		`{"a": null}`:                                 `{"a":null}`,
		`{"a": -0}`:                                   `{"a":0}`,
		`{"auth": {"success": true, "mxid": "@john.doe:example.com", "profile": {"display_name": "John Doe", "three_pids": [{"medium": "email", "address": "john.doe@example.org"}, {"medium": "msisdn", "address": "123456789"}]}}}`: `{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}`,
	} {
		got, err := canonjson.Canonical([]byte(in))
		if err != nil || string(got) != want {
			t.Errorf("Canonical(%s) = %s, %v; want %s", in, got, err, want)
		}
	}
}

// Appendices, section "Canonical JSON", "Grammar".
func TestStrings(t *testing.T) {
	for in, want := range map[string]string{
		`"\u0008\u0009\u000a\u000c\u000d\u0022\u005c\u002f"`: `"\b\t\n\f\r\"\\/"`,
		`"\u0000\u0007\u000B\u001F\u007f"`:                   `"\u0000\u0007\u000b\u001f` + "\x7f\"",
		`"\ud83d\uDE00"`:                                     `"😀"`,
		`"\u2028<>&"`:                                        "\"\u2028<>&\"",
		"{\"\U00010000\":1,\"\uffff\":2}":                    "{\"\uffff\":2,\"\U00010000\":1}", // code points, not UTF-16
		`{"a\u0062":1,"aa":2}`:                               `{"aa":2,"ab":1}`,
	} {
		got, err := canonjson.Canonical([]byte(in))
		if err != nil || string(got) != want {
			t.Errorf("Canonical(%s) = %s, %v; want %s", in, got, err, want)
		}
	}
}

func TestRefusals(t *testing.T) {
	deep := strings.Repeat("[", canonjson.MaxDepth+2) + strings.Repeat("]", canonjson.MaxDepth+2)
	for in, want := range map[string]error{
		``: canonjson.ErrSyntax, `{`: canonjson.ErrSyntax, `{}x`: canonjson.ErrSyntax, `[1,]`: canonjson.ErrSyntax, `{"a":1,}`: canonjson.ErrSyntax,
		`{"a"}`: canonjson.ErrSyntax, `{a:1}`: canonjson.ErrSyntax, `01`: canonjson.ErrSyntax, `-`: canonjson.ErrSyntax, `+1`: canonjson.ErrSyntax, `1.`: canonjson.ErrSyntax,
		`tru`: canonjson.ErrSyntax, `nul`: canonjson.ErrSyntax, `NaN`: canonjson.ErrSyntax, `"\x"`: canonjson.ErrSyntax, `"\u12"`: canonjson.ErrSyntax, "\"\n\"": canonjson.ErrSyntax,
		`1.5`: canonjson.ErrNumber, `1.0`: canonjson.ErrNumber, `1e3`: canonjson.ErrNumber, `9007199254740992`: canonjson.ErrNumber, `-9007199254740992`: canonjson.ErrNumber,
		`99999999999999999999999`: canonjson.ErrNumber,
		`{"a":1,"a":2}`:           canonjson.ErrDuplicate, `{"a":1,"b":2,"\u0061":3}`: canonjson.ErrDuplicate,
		"\"\xff\"": canonjson.ErrUTF8, "\"\xed\xa0\x80\"": canonjson.ErrUTF8, `"\ud800"`: canonjson.ErrUTF8, `"\ud800\u0041"`: canonjson.ErrUTF8, `"\udc00\ud800"`: canonjson.ErrUTF8,
		deep: canonjson.ErrDepth,
	} {
		if got, err := canonjson.Canonical([]byte(in)); !errors.Is(err, want) {
			t.Errorf("Canonical(%.40s) = %.40s, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{`9007199254740991`, `-9007199254740991`, `0`, strings.Repeat("[", canonjson.MaxDepth) + strings.Repeat("]", canonjson.MaxDepth)} {
		if got, err := canonjson.Canonical([]byte(in)); err != nil || string(got) != in {
			t.Errorf("Canonical(%.40s) = %.40s, %v", in, got, err)
		}
	}
}

// Room version 1, section "Canonical JSON": what is wrong today may stand in old rooms. The forms are those of Python's
// json module, which wrote the bytes that were signed.
func TestLoose(t *testing.T) {
	for in, want := range map[string]string{
		`1.0`: `1.0`, `1.50`: `1.5`, `0.1`: `0.1`, `-0.0`: `-0.0`, `1e2`: `100.0`, `1E16`: `1e+16`, `9999999999999998.0`: `9999999999999998.0`, `0.0001`: `0.0001`, `0.00001`: `1e-05`,
		`1e-400`: `0.0`, `5e-324`: `5e-324`, `1.7976931348623157e308`: `1.7976931348623157e+308`,
		`9223372036854775807`: `9223372036854775807`, `-99999999999999999999999`: `-99999999999999999999999`,
		`{"b":1,"a":1,"b":2}`: `{"a":1,"b":2}`,
	} {
		got, err := canonjson.CanonicalLoose([]byte(in))
		if err != nil || string(got) != want {
			t.Errorf("CanonicalLoose(%s) = %s, %v; want %s", in, got, err, want)
		}
	}
	if got, err := canonjson.CanonicalLoose([]byte(`1e999`)); !errors.Is(err, canonjson.ErrNumber) {
		t.Errorf("CanonicalLoose(1e999) = %s, %v", got, err)
	}
}

func TestMarshal(t *testing.T) {
	got, err := canonjson.Marshal(map[string]any{"b": "<&>", "a": []int{1}})
	if err != nil || string(got) != `{"a":[1],"b":"<&>"}` {
		t.Errorf("Marshal = %s, %v", got, err)
	}
	if _, err := canonjson.Marshal(1.5); !errors.Is(err, canonjson.ErrNumber) {
		t.Errorf("Marshal(1.5): %v", err)
	}
}

// value draws JSON values without fractions.
func value(depth int) *rapid.Generator[any] {
	text := rapid.String().AsAny()
	leaf := []*rapid.Generator[any]{text, rapid.Int64Range(canonjson.MinInt, canonjson.MaxInt).AsAny(), rapid.Bool().AsAny(), rapid.Just[any](nil)}
	if depth > 0 {
		leaf = append(leaf, rapid.SliceOfN(value(depth-1), 0, 4).AsAny(), rapid.MapOfN(rapid.String(), value(depth-1), 0, 5).AsAny())
	}
	return rapid.OneOf(leaf...)
}

// Canonical keeps the meaning, is idempotent, and does not depend on how the input was written.
func TestCanonicalProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := value(3).Draw(t, "value")
		plain, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		indented, err := json.MarshalIndent(v, " ", "\t")
		if err != nil {
			t.Fatal(err)
		}
		a, err := canonjson.Canonical(plain)
		if err != nil {
			t.Fatalf("Canonical(%s): %v", plain, err)
		}
		b, err := canonjson.Canonical(indented)
		if err != nil || !bytes.Equal(a, b) {
			t.Fatalf("%s and %s differ: %v", a, b, err)
		}
		if again, err := canonjson.Canonical(a); err != nil || !bytes.Equal(a, again) {
			t.Fatalf("%s again is %s: %v", a, again, err)
		}
		back, err := json.Marshal(decode(t, a))
		if err != nil {
			t.Fatal(err)
		}
		if want, err := json.Marshal(decode(t, plain)); err != nil || !bytes.Equal(want, back) {
			t.Fatalf("%s became %s: %v", want, back, err)
		}
	})
}

func decode(t *rapid.T, b []byte) any {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{`{"b":[1,-0,{"c":null}],"a":"\u00e9\ud83d\ude00"}`, `{"a":1,"a":2}`, `[1.5,1e9]`, "\"\x00\"", `{"a":{"b":{"c":[[[[]]]]}}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		strict, strictErr := canonjson.Canonical(in)
		loose, looseErr := canonjson.CanonicalLoose(in)
		if strictErr == nil && (looseErr != nil || !bytes.Equal(strict, loose)) {
			t.Fatalf("strict %s, loose %s, %v", strict, loose, looseErr)
		}
		if looseErr != nil {
			return
		}
		if !json.Valid(in) || !json.Valid(loose) {
			t.Fatalf("%q taken as %q", in, loose)
		}
		if again, err := canonjson.CanonicalLoose(loose); err != nil || !bytes.Equal(again, loose) {
			t.Fatalf("%q again is %q, %v", loose, again, err)
		}
		if o, err := canonjson.ParseObject(loose); err == nil && !bytes.Equal(o.Bytes(), loose) {
			t.Fatalf("%q taken apart and put together is %q", loose, o.Bytes())
		}
		if _, err := canonjson.Elements(loose); (err == nil) != (loose[0] == '[') {
			t.Fatalf("elements of %q: %v", loose, err)
		}
	})
}

func BenchmarkCanonical(b *testing.B) {
	in := []byte(`{"type":"m.room.message","content":{"msgtype":"m.text","body":"` + strings.Repeat("Grüße ", 120) + `"},"sender":"@a:domain","depth":12,"prev_events":["$a","$b"]}`)
	b.ReportAllocs()
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		if _, err := canonjson.Canonical(in); err != nil {
			b.Fatal(err)
		}
	}
}
