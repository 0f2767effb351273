package mac

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"hanse/pkg/pg/pgtest"
)

// secretOf is one that nobody keeps.
func secretOf(secret, cluster string) *Secret {
	return &Secret{secret: bytes.Repeat([]byte(secret), secretSize)[:secretSize], cluster: cluster,
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "refused"}, []string{"purpose"})}
}

// What is signed is read back under its name until it ends. Whatever else is done to it, it is not.
func TestOpen(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	rapid.Check(t, func(t *rapid.T) {
		s := secretOf("s", "here")
		k := s.Key("one")
		name := rapid.String().Draw(t, "name")
		value := rapid.SliceOf(rapid.Byte()).Draw(t, "value")
		life := time.Duration(rapid.IntRange(0, 3600).Draw(t, "life")) * time.Second
		signed := k.Sign(name, value, now.Add(life))
		got, err := secretOf("s", "here").Key("one").Open(name, signed, now.Add(life)) // another worker
		if err != nil || !bytes.Equal(got, value) {
			t.Fatalf("%q, %v", got, err)
		}
		if _, err := k.Open(name, signed, now.Add(life+time.Millisecond)); !errors.Is(err, ErrEnded) {
			t.Fatalf("after its end: %v", err)
		}
		for what, err := range map[string]error{
			"another name":    opened(k, name+"x", signed, now),
			"another purpose": opened(s.Key("two"), name, signed, now),
			"another cluster": opened(secretOf("s", "there").Key("one"), name, signed, now),
			"another secret":  opened(secretOf("t", "here").Key("one"), name, signed, now),
			"cut":             opened(k, name, signed[:rapid.IntRange(0, len(signed)-1).Draw(t, "length")], now),
			"longer":          opened(k, name, append(bytes.Clone(signed), 0), now),
			"plain":           opened(k, name, value, now),
			"a longer life":   opened(k, name, withLife(signed), now),
			"changed":         opened(k, name, flipped(t, signed), now),
		} {
			if !errors.Is(err, ErrForged) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if n := testutil.ToFloat64(s.refused.WithLabelValues("one")); n != 6 {
			t.Errorf("%v refusals were counted", n)
		}
	})
}

func opened(k *Key, name string, signed []byte, now time.Time) error {
	_, err := k.Open(name, signed, now)
	return err
}

func withLife(signed []byte) []byte {
	lie := bytes.Clone(signed)
	lie[tagSize]++
	return lie
}

func flipped(t *rapid.T, signed []byte) []byte {
	lie := bytes.Clone(signed)
	lie[rapid.IntRange(0, len(lie)-1).Draw(t, "at")] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
	return lie
}

// A name's end cannot be moved into the value.
func TestNameAndValueAreApart(t *testing.T) {
	k := secretOf("s", "here").Key("one")
	signed := k.Sign("ab", []byte("c"), time.UnixMilli(0))
	moved := k.Sign("a", []byte("bc"), time.UnixMilli(0))
	if bytes.Equal(signed[:tagSize], moved[:tagSize]) {
		t.Error("two values have one tag")
	}
}

// Workers that start at once have one secret; one that starts after the row was deleted has another.
func TestLoad(t *testing.T) {
	cfg := pgtest.Config(t, 2)
	secrets := make([]*Secret, 6)
	var g errgroup.Group
	for i := range secrets {
		shards := pgtest.Open(t, cfg)
		g.Go(func() (err error) {
			secrets[i], err = Load(t.Context(), shards, nil)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	signed := secrets[0].Key("x").Sign("n", []byte("v"), now)
	for i, s := range secrets {
		if err := opened(s.Key("x"), "n", signed, now); err != nil {
			t.Errorf("worker %d: %v", i, err)
		}
	}
	shards := pgtest.Open(t, cfg)
	for i, pool := range shards.All() {
		var rows int
		if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM cluster_secret`).Scan(&rows); err != nil || rows != 1-i {
			t.Errorf("shard %d: %d rows, %v", i, rows, err)
		}
	}
	if err := Renew(t.Context(), shards); err != nil {
		t.Fatal(err)
	}
	rotated, err := Load(t.Context(), shards, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := opened(rotated.Key("x"), "n", signed, now); !errors.Is(err, ErrForged) {
		t.Errorf("after a rotation: %v", err)
	}
	shards.Close()
	if _, err := Load(t.Context(), shards, nil); err == nil || errors.Is(err, pgx.ErrNoRows) {
		t.Errorf("without a database: %v", err)
	}
}

// No way of printing shows a secret or a key.
func TestHidden(t *testing.T) {
	s := secretOf("s", "here")
	k := s.Key("one")
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		for _, v := range []any{s, k} {
			if got := fmt.Sprintf(verb, v); got != hidden {
				t.Errorf("%s: %s", verb, got)
			}
		}
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "secret", s, "key", k)
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "secret", s, "key", k)
	raw, err := json.Marshal([]any{s, k})
	if err != nil || string(raw) != "[{},{}]" {
		t.Errorf("JSON: %s, %v", raw, err)
	}
	if strings.Contains(log.String(), "ssss") || strings.Contains(log.String(), string(k.key)) {
		t.Errorf("log: %s", log.String())
	}
}
