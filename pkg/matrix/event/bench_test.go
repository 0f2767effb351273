package event_test

import (
	"encoding/json"
	"strings"
	"testing"

	"hanse/pkg/matrix/event"
)

// kilobyte is a message of about 1 KB once it is signed.
func kilobyte() event.Draft {
	d := draft("11")
	d.Type, d.StateKey = "m.room.message", nil
	d.Content = json.RawMessage(`{"msgtype":"m.text","body":"` + strings.Repeat("Grüße \\n ", 55) + `"}`)
	return d
}

func BenchmarkBuild(b *testing.B) {
	d, rules, key := kilobyte(), rulesOf(b, "11"), testKey(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := event.Build(d, rules, "domain", key); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	p, err := event.Build(kilobyte(), rulesOf(b, "11"), "domain", testKey(b))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := event.Parse(p.JSON, p.Rules); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseTrusted(b *testing.B) {
	p, err := event.Build(kilobyte(), rulesOf(b, "11"), "domain", testKey(b))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := event.ParseTrusted(p.JSON, p.ID, p.Rules); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkClientJSON(b *testing.B) {
	p, err := event.Build(kilobyte(), rulesOf(b, "11"), "domain", testKey(b))
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf = p.ClientJSON(buf[:0], []byte(`{"age":1}`), false)
	}
}
