package room

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	federationv1 "hanse/proto/federation/v1"
)

// pieces cuts a body into chunks as they may come.
func pieces(body []byte, size int) *answer {
	a := &answer{}
	for len(body) > 0 {
		n := min(len(body), size)
		a.messages = append(a.messages, &federationv1.DoResponse{Chunk: slices.Clone(body[:n])})
		body = body[n:]
	}
	return a
}

func readStreamed(body []byte, size int, limit int64) (map[string][]string, error) {
	got := make(map[string][]string)
	r := &streamed{stream: pieces(body, size), server: one, left: limit, patience: progressIn}
	err := r.object(func(list string, e json.RawMessage) error {
		got[list] = append(got[list], string(e))
		return nil
	}, []string{"pdus", "auth_chain"})
	return got, err
}

// Whatever comes, the elements are those that a decoder of the whole answer finds, or it is an error.
func FuzzStreamedAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"pdus":[{"a":1},{"b":[2,{}]}],"auth_chain":[]}`, `{"auth_chain":[1,"x",null],"other":{"pdus":[7]},"pdus":[[]]}`,
		`{}`, `[]`, `{"pdus":{}}`, `{"pdus":null}`, `{"pdus":[1`, `{"pdus":[1]`, `{"pdus":[1,]}`, `{"pdus":[1]}{"pdus":[2]}`, ``, `{"pdus":[1],"pdus":[2]}`,
		`{"p\u0064us":["\ud800"]}`, "{\"x\":\"\xff\",\"pdus\":[1]}",
	} {
		f.Add([]byte(seed), 3)
	}
	f.Fuzz(func(t *testing.T, body []byte, size int) {
		got, err := readStreamed(body, max(size%100, 1), 1<<20)
		if err != nil {
			return
		}
		// What was taken is an object, whose lists were handed out in full; what comes behind it is not looked at.
		d := json.NewDecoder(bytes.NewReader(body))
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			t.Fatalf("%q was taken: %v", body, err)
		}
		want := make(map[string][]string)
		in := json.NewDecoder(bytes.NewReader(raw))
		if _, err := in.Token(); err != nil {
			t.Fatal(err)
		}
		for in.More() {
			key, _ := in.Token()
			var value json.RawMessage
			if err := in.Decode(&value); err != nil {
				t.Fatal(err)
			}
			if name := key.(string); name == "pdus" || name == "auth_chain" {
				var list []json.RawMessage
				if err := json.Unmarshal(value, &list); err != nil {
					t.Fatalf("%q was taken: %v", body, err)
				}
				for _, e := range list {
					want[name] = append(want[name], string(e))
				}
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%q: %v, not %v", body, got, want)
		}
	})
}

func TestStreamedAnswerBounds(t *testing.T) {
	list := func(n int, element string) []byte {
		return []byte(`{"pdus":[` + strings.TrimSuffix(strings.Repeat(element+",", n), ",") + `]}`)
	}
	if got, err := readStreamed(list(100_000, `{"type":"m.room.member"}`), 64<<10, 1<<30); err != nil || len(got["pdus"]) != 100_000 {
		t.Fatalf("%d elements, %v", len(got["pdus"]), err)
	}
	for name, body := range map[string][]byte{
		"too long":                        list(100_000, `{"type":"m.room.member"}`),
		"an element that is too long":     list(1, `"`+strings.Repeat("x", maxElement)+`"`),
		"something else that is too long": []byte(`{"other":"` + strings.Repeat("x", maxElement) + `"}`),
	} {
		if _, err := readStreamed(body, 4096, 2_000_000); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	stop := errors.New("stop")
	r := &streamed{stream: pieces(list(10, "1"), 5), server: one, left: 1 << 20, patience: progressIn}
	n := 0
	err := r.object(func(string, json.RawMessage) error {
		if n++; n == 3 {
			return stop
		}
		return nil
	}, []string{"pdus"})
	if !errors.Is(err, stop) || n != 3 {
		t.Fatalf("%d elements, %v", n, err)
	}
}

// trickle is a server that sends a part of a list every now and then.
type trickle struct {
	federationv1.FedOutClient
	first, every time.Duration
	part         int
	parts        int
}

func (tr *trickle) Do(ctx context.Context, _ *federationv1.DoRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[federationv1.DoResponse], error) {
	return &trickling{trickle: tr, ctx: ctx}, nil
}

type trickling struct {
	*trickle
	answer
	ctx  context.Context
	sent int
}

func (a *trickling) Recv() (*federationv1.DoResponse, error) {
	wait := a.every
	if a.sent == 0 {
		wait = a.first
	}
	select {
	case <-time.After(wait):
	case <-a.ctx.Done():
		return nil, a.ctx.Err()
	}
	a.sent++
	element := `"` + strings.Repeat("x", a.part-3) + `"`
	switch a.sent {
	case 1:
		return &federationv1.DoResponse{Status: 200, Chunk: []byte(`{"pdus":[`)}, nil
	case a.parts:
		return &federationv1.DoResponse{Chunk: []byte(element + `]}`)}, nil
	case a.parts + 1:
		return nil, io.EOF
	}
	return &federationv1.DoResponse{Chunk: []byte(element + `,`)}, nil
}

// A server that sends too slowly does not keep us; one that computes for long, or is read slowly by us, does.
func TestTrickle(t *testing.T) {
	for _, c := range []struct {
		name string
		from trickle
		ours time.Duration // that we take for each element
		want error
		most int // seconds
	}{
		{name: "slow in small parts", from: trickle{every: time.Second, part: 1000, parts: 10_000}, want: errTrickles, most: 30},
		{name: "slow in large parts", from: trickle{every: 40 * time.Second, part: leastProgress, parts: 10}, want: errTrickles, most: 30},
		{name: "no answer", from: trickle{first: time.Hour, part: 1000, parts: 10}, want: errTrickles, most: 120},
		{name: "computes for long", from: trickle{first: time.Minute, part: 1000, parts: 10}, most: 60},
		{name: "just fast enough", from: trickle{every: time.Second, part: leastProgress / 28, parts: 200}, most: 200},
		{name: "we are slow", from: trickle{every: time.Millisecond, part: 1000, parts: 10}, ours: time.Minute, most: 600},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &Service{fedout: &c.from}
				start, n := time.Now(), 0
				err := s.askStream(t.Context(), request{timeout: hugeTimeout * 10, max: 1 << 30}, func(string, json.RawMessage) error {
					n++
					time.Sleep(c.ours) // on the clock of the bubble
					return nil
				}, "pdus")
				if !errors.Is(err, c.want) {
					t.Errorf("%d elements, then %v", n, err)
				}
				if took := time.Since(start); took > time.Duration(c.most)*time.Second+time.Second {
					t.Errorf("after %v", took)
				}
				if c.want == nil && n != c.from.parts-1 {
					t.Errorf("%d elements of %d", n, c.from.parts-1)
				}
			})
		})
	}
}
