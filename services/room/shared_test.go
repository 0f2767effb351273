package room

import (
	"context"
	"fmt"
	gomaps "maps"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"hanse/pkg/mac"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/state"
	roomv1 "hanse/proto/room/v1"
)

func drawMap(t *rapid.T, base state.Map) state.Map {
	for range rapid.IntRange(0, 8).Draw(t, "n") {
		k := state.Key{Type: rapid.SampledFrom([]string{"m.room.topic", "m.room.member"}).Draw(t, "type"), StateKey: fmt.Sprint(rapid.IntRange(0, 40).Draw(t, "key"))}
		if rapid.IntRange(0, 4).Draw(t, "delete") == 0 {
			base = base.Delete(k)
		} else {
			base = base.Set(k, rapid.Int64Range(1, 1000).Draw(t, "nid"))
		}
	}
	return base
}

// A resolution that is shared is read as it was, of the same inputs in any order; and whatever Redis makes of it, what is
// read has the identity that stands beside it or is not believed.
func TestSharedResolution(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := state.Map{}
		for i := range 50 {
			base = base.Set(state.Key{Type: "m.room.member", StateKey: fmt.Sprint(i)}, int64(i+1))
		}
		maps := []state.Map{drawMap(t, base), drawMap(t, base), drawMap(t, base)}
		want := drawMap(t, maps[1])
		verdicts := rapid.MapOf(rapid.Int64Range(1, 1<<40), rapid.Bool()).Draw(t, "verdicts")
		value := encodeResolution(resolution{maps: maps, result: want, verdicts: verdicts})
		got, err := decodeResolution(value, []state.Map{maps[2], maps[0], maps[1]})
		if err != nil || !got.result.Equal(want) || !gomaps.Equal(got.verdicts, verdicts) {
			t.Fatalf("%v", err)
		}
		lie := append([]byte(nil), value...)
		lie[rapid.IntRange(0, len(lie)-1).Draw(t, "at")] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
		if got, err := decodeResolution(lie, maps); err == nil && !got.result.Equal(want) {
			t.Fatal("a lie was believed")
		}
		if got, err := decodeResolution(value, []state.Map{drawMap(t, base)}); err == nil && !got.result.Equal(want) {
			t.Fatal("the resolution of other states was believed")
		}
	})
}

func TestSharedResolutionTooFar(t *testing.T) {
	far := state.Map{}
	for i := range sharedChanges + 1 {
		far = far.Set(state.Key{Type: "m.room.member", StateKey: fmt.Sprint(i)}, int64(i+1))
	}
	if encodeResolution(resolution{maps: []state.Map{{}}, result: far}) != nil {
		t.Error("a large difference was shared")
	}
	many := make(map[int64]bool)
	for i := range int64(sharedVerdicts + 1) {
		many[i+1] = false
	}
	client := redis.NewClient(&redis.Options{})
	t.Cleanup(func() { _ = client.Close() })
	s := &shared{redis: client, queue: make(chan resolution, 2)}
	s.offer([]resolution{{verdicts: many}, {}})
	if len(s.queue) != 1 {
		t.Errorf("%d resolutions wait, of one that depends on many verdicts and one that does not", len(s.queue))
	}
}

func (c *cluster) knownTo(place string) (n float64) {
	for _, w := range c.workers {
		n += testutil.ToFloat64(w.metrics.memo.WithLabelValues(place))
	}
	return n
}

// lie replaces what Redis has of resolutions.
func (c *cluster) lie(with func(name, value string) string) {
	c.tb.Helper()
	for _, k := range c.redis.Keys() {
		value, err := c.redis.Get(k)
		if err == nil {
			err = c.redis.Set(k, with(k, value))
		}
		if err != nil {
			c.tb.Fatal(err)
		}
	}
}

// signature is how long what stands before a value is.
const signature = 40

// lieOf says, well-formed, that the states after a room's ends resolve to one without a topic.
func (c *cluster) lieOf(roomID string) []byte {
	maps := c.statesAfter(c.room(roomID))
	return encodeResolution(resolution{maps: maps, result: maps[0].Delete(state.Key{Type: "m.room.topic"})})
}

// foreign is a key of the same purpose, of a worker of another cluster.
func foreign(tb testing.TB) *mac.Key {
	secret, err := mac.Load(context.Background(), pgtest.New(tb), nil)
	if err != nil {
		tb.Fatal(err)
	}
	return secret.Key("resolution")
}

// The next owner of a room finds in Redis what the one before has resolved; with Redis wiped, lying or away it works it out
// itself. The state is the same.
func TestSharedBetweenWorkers(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	var replayed, roomID string
	for _, c := range []struct {
		name   string
		redis  func()
		shared float64
	}{
		{"kept", func() {}, 1},
		{"wiped", func() { a.redis.FlushAll() }, 0},
		{"forged", func() {
			lie := string(a.lieOf(roomID))
			a.lie(func(_, value string) string { return value[:signature] + lie })
		}, 0},
		{"signed elsewhere", func() {
			key, lie := foreign(t), a.lieOf(roomID)
			a.lie(func(name, _ string) string { return string(key.Sign(name, lie, time.Now().Add(time.Hour))) })
		}, 0},
		{"cut", func() { a.lie(func(_, value string) string { return value[:len(value)-1] }) }, 0},
		{"unsigned", func() { a.lie(func(_, value string) string { return value[signature:] }) }, 0},
		{"of another room", func() { a.lie(func(string, string) string { return replayed }) }, 0},
		{"away", func() { a.redis.SetError("away") }, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			roomID = a.create("11", anna, "public")
			ok(a.setState(roomID, anna, "m.room.power_levels", "", `{"users":{"@anna:one.test":100,"@bert:two.test":100}}`))
			ok(b.join(roomID, bert, string(one)))
			before := len(a.redis.Keys())
			told := ok(a.setState(roomID, anna, "m.room.topic", "", `{"topic":"one"}`)).Pos - 1
			sent := ok(b.setState(roomID, bert, "m.room.topic", "", `{"topic":"two"}`)).Pos
			carry(b, a, two, roomID, sent-1)
			if len(a.room(roomID).Extremities) != 2 {
				t.Fatal("there is no fork")
			}
			waitFor(t, func() bool { return len(a.redis.Keys()) > before })
			if replayed == "" {
				a.lie(func(_, value string) string { replayed = value; return value })
			}
			c.redis()
			a.replace()
			a.settle()
			carry(a, b, one, roomID, told)
			ok(b.say(roomID, bert, "healed"))
			carry(b, a, two, roomID, sent)
			if got := a.knownTo("redis"); got != c.shared {
				t.Errorf("%v resolutions were found in Redis, want %v", got, c.shared)
			}
			if n := len(a.room(roomID).Extremities); n != 1 {
				t.Errorf("%d extremities", n)
			}
			sameState(t, a, b, roomID)
			a.checkResolved(roomID)
		})
	}
}

// The owner dies while it resolves: the sender's request goes to the next one, which resolves anew; the event is there
// once and the state is right.
func TestOwnerDiesResolving(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	roomID := a.create("12", anna, "public")
	ok(b.join(roomID, bert, string(one)))
	told := ok(a.setState(roomID, anna, "m.room.topic", "", `{"topic":"one"}`)).Pos - 1
	sent := ok(b.setState(roomID, bert, "m.room.member", bert, `{"membership":"join","displayname":"B"}`)).Pos

	began := make(chan struct{})
	old := a.workers[0]
	old.faults.resolving = func(ctx context.Context, _ *room) error {
		close(began)
		<-ctx.Done() // it never comes to an end
		return ctx.Err()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		carry(b, a, two, roomID, sent-1)
	}()
	<-began
	ok(a.say(roomID, anna, "while it resolves"))
	a.replace()
	<-done
	a.settle()
	if extremities := len(a.room(roomID).Extremities); extremities != 2 {
		t.Errorf("%d extremities", extremities)
	}
	a.checkResolved(roomID)
	a.auditSplit(t, roomID)
	carry(a, b, one, roomID, told)
	sameState(t, a, b, roomID)
}
