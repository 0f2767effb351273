package mediastore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gocloud.dev/blob"

	"hanse/pkg/matrix/id"
	"hanse/pkg/mediastore/s3test"
	"hanse/pkg/pg/pgtest"
)

const (
	anna = id.User("@anna:a.example")
	here = id.Server("a.example")
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// stores runs a test with each kind of object store.
func stores(t *testing.T, test func(t *testing.T, s *Store)) {
	t.Run("file", func(t *testing.T) { test(t, open(t, "")) })
	t.Run("S3", func(t *testing.T) { test(t, open(t, s3test.New(t).Bucket())) })
}

// open returns a store over two shards whose objects are at an URL, or in a directory.
func open(t *testing.T, at string) *Store {
	t.Helper()
	cfg := Defaults()
	cfg.URL = at
	s, err := Open(t.Context(), cfg, t.TempDir(), pgtest.NewSharded(t, 2), nil)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

func (s *Store) put(t *testing.T, content string) *Media {
	t.Helper()
	m, err := s.Put(t.Context(), Upload{ID: NewID(here), User: anna, Type: "text/plain", Name: "a b.txt", Max: 1 << 20}, strings.NewReader(content))
	must(t, err)
	return m
}

func (s *Store) content(t *testing.T, i ID) string {
	t.Helper()
	m, err := s.Get(t.Context(), i)
	must(t, err)
	if m.State != Ready {
		t.Fatalf("state %d", m.State)
	}
	r, err := s.Reader(t.Context(), m.Object, 0, -1)
	must(t, err)
	defer r.Close()
	b, err := io.ReadAll(r)
	must(t, err)
	return string(b)
}

// objects lists what the store has.
func (s *Store) objects(t *testing.T) (keys []string, bytes int64) {
	t.Helper()
	for it := s.bucket.List(&blob.ListOptions{}); ; {
		o, err := it.Next(context.Background())
		if errors.Is(err, io.EOF) {
			return keys, bytes
		}
		must(t, err)
		keys = append(keys, o.Key)
		bytes += o.Size
	}
}

// settled waits until nothing that nobody uses is left.
func (s *Store) settled(t *testing.T) {
	t.Helper()
	for range 3 {
		_, err := s.sweep(context.Background(), s.allParts(), 0, 0)
		must(t, err)
	}
}

func TestPutGetDelete(t *testing.T) { stores(t, testPutGetDelete) }

func testPutGetDelete(t *testing.T, s *Store) {
	m := s.put(t, "hello")
	got, err := s.Get(t.Context(), m.ID)
	must(t, err)
	sum := sha256.Sum256([]byte("hello"))
	if got.Bytes != 5 || got.User != anna || got.Type != "text/plain" || got.Name != "a b.txt" || got.Remote || !bytes.Equal(got.Hash, sum[:]) {
		t.Errorf("got %+v", got)
	}
	if c := s.content(t, m.ID); c != "hello" {
		t.Errorf("content %q", c)
	}
	u, err := s.UserUsage(t.Context(), anna)
	must(t, err)
	if u != (Usage{1, 5}) {
		t.Errorf("usage %+v", u)
	}
	must(t, s.KeepThumbnail(t.Context(), m.ID, "32x32-crop", "image/png", []byte("thumb")))
	must(t, s.Delete(t.Context(), m.ID))
	if _, err := s.Get(t.Context(), m.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("after the deletion: %v", err)
	}
	if keys, _ := s.objects(t); len(keys) != 0 {
		t.Errorf("left in the store: %q", keys)
	}
	if u, err = s.UserUsage(t.Context(), anna); err != nil || u != (Usage{}) {
		t.Errorf("usage %+v %v", u, err)
	}
	if err := s.Delete(t.Context(), m.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	if err := s.KeepThumbnail(t.Context(), m.ID, "32x32-crop", "image/png", []byte("thumb")); !errors.Is(err, ErrNotFound) {
		t.Errorf("thumbnail of what was deleted: %v", err)
	}
}

// Media with the same bytes share one object, and it stays until the last of them is deleted.
func TestSameBytesAreStoredOnce(t *testing.T) { stores(t, testSameBytesAreStoredOnce) }

func testSameBytesAreStoredOnce(t *testing.T, s *Store) {
	one, two := s.put(t, "same"), s.put(t, "same")
	s.settled(t)
	if keys, n := s.objects(t); len(keys) != 1 || n != 4 {
		t.Fatalf("objects %q, %d bytes", keys, n)
	}
	must(t, s.Delete(t.Context(), one.ID))
	if c := s.content(t, two.ID); c != "same" {
		t.Errorf("the other one has %q", c)
	}
	must(t, s.Delete(t.Context(), two.ID))
	if keys, _ := s.objects(t); len(keys) != 0 {
		t.Errorf("left %q", keys)
	}
}

func TestLimits(t *testing.T) { stores(t, testLimits) }

func testLimits(t *testing.T, s *Store) {
	for _, n := range []int{0, 9, 10, 11} {
		m, err := s.Put(t.Context(), Upload{ID: NewID(here), User: anna, Max: 10}, strings.NewReader(strings.Repeat("x", n)))
		if n <= 10 && (err != nil || m.Bytes != int64(n)) || n > 10 && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%d bytes: %+v %v", n, m, err)
		}
	}
	broken := io.MultiReader(strings.NewReader("half"), errReader{})
	i := NewID(here)
	if _, err := s.Put(t.Context(), Upload{ID: i, User: anna, Max: 10}, broken); !errors.Is(err, errBroken) {
		t.Errorf("broken off: %v", err)
	}
	if _, err := s.Get(t.Context(), i); !errors.Is(err, ErrNotFound) {
		t.Errorf("broken off, but there: %v", err)
	}
	a, err := s.Audit(t.Context(), false, 0)
	must(t, err)
	if a.Objects != 3 || a.Bytes != 19 || a.RowBytes != 19 || len(a.Unknown)+len(a.Lost) != 0 {
		t.Errorf("audit %+v", a)
	}
}

var errBroken = errors.New("broken off")

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errBroken }

// Client-server API, content repository, asynchronous uploads: the ID comes first, its bytes once.
func TestReserved(t *testing.T) { stores(t, testReserved) }

func testReserved(t *testing.T, s *Store) {
	i := NewID(here)
	_, err := s.Reserve(t.Context(), i, anna)
	must(t, err)
	if n, err := s.Reservations(t.Context(), anna); err != nil || n != 1 {
		t.Errorf("%d reservations, %v", n, err)
	}
	up := Upload{ID: i, Reserved: true, User: anna, Max: 10}
	if _, err := s.Put(t.Context(), up, strings.NewReader("more than ten bytes")); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if m, err := s.Get(t.Context(), i); err != nil || m.State != Reserved {
		t.Errorf("after a failure: %+v %v", m, err)
	}
	_, err = s.Put(t.Context(), up, strings.NewReader("once"))
	must(t, err)
	if _, err := s.Put(t.Context(), up, strings.NewReader("twice")); !errors.Is(err, ErrExists) {
		t.Errorf("twice: %v", err)
	}
	if c := s.content(t, i); c != "once" {
		t.Errorf("content %q", c)
	}
	late := NewID(here)
	_, err = s.Reserve(t.Context(), late, anna)
	must(t, err)
	s.now = func() time.Time { return time.Now().Add(s.cfg.Reserve + time.Second) }
	if _, err := s.Put(t.Context(), Upload{ID: late, Reserved: true, User: anna, Max: 10}, strings.NewReader("late")); !errors.Is(err, ErrExists) {
		t.Errorf("after its time: %v", err)
	}
	s.settled(t)
	if _, err := s.Get(t.Context(), late); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unused reservation stays: %v", err)
	}
}

type killed struct{ step string }

// What workers leave that are killed at any step of uploads and deletions goes, and nothing else: the store has as many
// bytes as the rows say.
func TestKilledAtAnyStep(t *testing.T) { stores(t, testKilledAtAnyStep) }

func testKilledAtAnyStep(t *testing.T, s *Store) {
	r := rand.New(rand.NewPCG(1, 2))
	steps := []string{"written", "stored", "shared", "hidden", "unshared"}
	var alive []*Media
	content := make(map[ID]string)
	attempt := func(do func()) (dead bool) {
		defer func() {
			if k := recover(); k != nil {
				if _, ok := k.(killed); !ok {
					panic(k)
				}
				dead = true
			}
		}()
		do()
		return false
	}
	for n := range 150 {
		kill := steps[r.IntN(len(steps))]
		s.faults = func(step string) error {
			if n%3 != 0 && step == kill {
				panic(killed{step})
			}
			return nil
		}
		if len(alive) > 0 && r.IntN(2) == 0 {
			at := r.IntN(len(alive))
			m := alive[at]
			attempt(func() { must(t, s.Delete(t.Context(), m.ID)) })
			alive = append(alive[:at], alive[at+1:]...)
			delete(content, m.ID)
			continue
		}
		c := fmt.Sprint("content ", r.IntN(6))
		attempt(func() {
			m := s.put(t, c)
			alive = append(alive, m)
			content[m.ID] = c
		})
	}
	s.faults = nil
	s.settled(t)
	a, err := s.Audit(t.Context(), false, 0)
	must(t, err)
	if a.Bytes != a.RowBytes || a.Objects != a.Rows || len(a.Unknown)+len(a.Lost)+len(a.Wrong) != 0 {
		t.Errorf("audit %+v", a)
	}
	var bytes int64
	for i, c := range content {
		if got := s.content(t, i); got != c {
			t.Errorf("%s has %q, want %q", i, got, c)
		}
		bytes += int64(len(c))
	}
	u, err := s.UserUsage(t.Context(), anna)
	must(t, err)
	if u.Items != int64(len(content)) || u.Bytes != bytes {
		t.Errorf("usage %+v, want %d of %d bytes", u, len(content), bytes)
	}
}

// Uploads and deletions of the same bytes at the same time, by two replicas, neither lose an object that is used nor keep
// one that is not.
func TestSharedAtTheSameTime(t *testing.T) { stores(t, testSharedAtTheSameTime) }

func testSharedAtTheSameTime(t *testing.T, s *Store) {
	two := *s
	var wg sync.WaitGroup
	var mu sync.Mutex
	var left []*Media
	for w := range 4 {
		store := []*Store{s, &two}[w%2]
		wg.Go(func() {
			for n := range 25 {
				m := store.put(t, "the same bytes")
				if n%5 == w {
					mu.Lock()
					left = append(left, m)
					mu.Unlock()
					continue
				}
				if err := store.Delete(context.Background(), m.ID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, m := range left {
		if c := s.content(t, m.ID); c != "the same bytes" {
			t.Errorf("content %q", c)
		}
	}
	s.settled(t)
	if keys, _ := s.objects(t); len(keys) != 1 {
		t.Errorf("objects %q", keys)
	}
}

// Audit finds what the store has lost and what nobody knows of, and repairs both.
func TestAudit(t *testing.T) { stores(t, testAudit) }

func testAudit(t *testing.T, s *Store) {
	kept, lost := s.put(t, "kept"), s.put(t, "lost")
	must(t, s.KeepThumbnail(t.Context(), kept.ID, "1", "image/png", []byte("t")))
	thumb, err := s.Thumbnail(t.Context(), kept.ID, "1")
	must(t, err)
	must(t, s.bucket.Delete(t.Context(), lost.Object))
	must(t, s.bucket.Delete(t.Context(), thumb.Object))
	must(t, s.bucket.WriteAll(t.Context(), "m/xx/unknown", []byte("unknown"), nil))
	a, err := s.Audit(t.Context(), true, time.Hour)
	must(t, err)
	if len(a.Lost) != 2 || len(a.Unknown) != 0 {
		t.Errorf("what is young is left alone: %+v", a)
	}
	a, err = s.Audit(t.Context(), true, -time.Hour)
	must(t, err)
	if len(a.Unknown) != 1 || a.Repaired != 1 {
		t.Errorf("audit %+v", a)
	}
	a, err = s.Audit(t.Context(), false, 0)
	must(t, err)
	if a.Bytes != 4 || a.RowBytes != 4 || len(a.Unknown)+len(a.Lost) != 0 {
		t.Errorf("after the repair: %+v", a)
	}
	if _, err := s.Get(t.Context(), lost.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("a media without its bytes: %v", err)
	}
	if c := s.content(t, kept.ID); c != "kept" {
		t.Errorf("content %q", c)
	}
	// An object that was lost comes back with the next upload of its bytes.
	must(t, s.bucket.Delete(t.Context(), kept.Object))
	s.put(t, "kept")
	if c := s.content(t, kept.ID); c != "kept" {
		t.Errorf("content %q", c)
	}
}

// Media of other servers go by their last use when there are more bytes than there may be.
func TestEvict(t *testing.T) { stores(t, testEvict) }

func testEvict(t *testing.T, s *Store) {
	local := s.put(t, "ours")
	at := time.Now().Add(-48 * time.Hour)
	var ids []ID
	for n := range 10 {
		s.now = func() time.Time { return at.Add(time.Duration(n) * time.Hour) }
		m, err := s.Put(t.Context(), Upload{ID: ID{"b.example", fmt.Sprint("m", n)}, Remote: true, Max: 100}, strings.NewReader(fmt.Sprint("remote ", n)))
		must(t, err)
		ids = append(ids, m.ID)
	}
	s.now = time.Now
	first, err := s.Get(t.Context(), ids[0])
	must(t, err)
	must(t, s.Used(t.Context(), first))
	n, err := s.Evict(t.Context(), []id.Server{here}, 40)
	must(t, err)
	if n != 5 {
		t.Errorf("evicted %d", n)
	}
	for k, i := range ids {
		_, err := s.Get(t.Context(), i)
		if gone := errors.Is(err, ErrNotFound); gone != (k >= 1 && k <= 5) {
			t.Errorf("media %d: %v", k, err)
		}
	}
	if c := s.content(t, local.ID); c != "ours" {
		t.Errorf("content %q", c)
	}
	if left, err := s.RemoteBytes(t.Context(), []id.Server{here}); err != nil || left != 40 {
		t.Errorf("%d bytes left, %v", left, err)
	}
}

func TestQuarantineGoesByBytes(t *testing.T) { stores(t, testQuarantineGoesByBytes) }

func testQuarantineGoesByBytes(t *testing.T, s *Store) {
	bad, same, guarded, other := s.put(t, "bad"), s.put(t, "bad"), s.put(t, "bad"), s.put(t, "good")
	must(t, s.Protect(t.Context(), guarded.ID, true))
	n, err := s.Quarantine(t.Context(), bad.ID, "@admin:a.example")
	must(t, err)
	if n != 2 {
		t.Errorf("%d in quarantine", n)
	}
	for m, want := range map[*Media]bool{bad: true, same: true, guarded: false, other: false} {
		got, err := s.Get(t.Context(), m.ID)
		must(t, err)
		if (got.QuarantinedBy != "") != want {
			t.Errorf("%s: quarantined by %q", m.ID, got.QuarantinedBy)
		}
	}
	must(t, s.Unquarantine(t.Context(), same.ID))
	if got, err := s.Get(t.Context(), same.ID); err != nil || got.QuarantinedBy != "" {
		t.Errorf("%+v %v", got, err)
	}
}

func TestListAndDeleteOfUser(t *testing.T) { stores(t, testListAndDeleteOfUser) }

func testListAndDeleteOfUser(t *testing.T, s *Store) {
	for n := range 7 {
		s.now = func() time.Time { return time.Unix(int64(1000+n), 0) }
		s.put(t, fmt.Sprint("file ", n))
	}
	s.now = time.Now
	page, err := s.OfUser(t.Context(), anna, Order{}, 2, 3)
	must(t, err)
	for k, m := range page {
		if c := s.content(t, m.ID); c != fmt.Sprint("file ", 4-k) {
			t.Errorf("%d: %q", k, c)
		}
	}
	if len(page) != 3 {
		t.Errorf("%d on the page", len(page))
	}
	for by, o := range orders {
		for _, ascending := range []bool{true, false} {
			page, err := s.OfUser(t.Context(), anna, Order{by, ascending}, 0, 10)
			must(t, err)
			if len(page) != 7 || !slices.IsSortedFunc(page, Order{by, ascending}.compare) {
				t.Errorf("by %s (%s): %d, or not in order", by, o.column, len(page))
			}
		}
	}
	must(t, s.Protect(t.Context(), page[0].ID, true))
	_, err = s.Quarantine(t.Context(), page[1].ID, anna)
	must(t, err)
	_, err = s.Reserve(t.Context(), NewID(here), anna)
	must(t, err)
	// What is being uploaded goes, too.
	i := NewID(here)
	body := &at{r: strings.NewReader("too late"), left: 1, do: func() {
		n, err := s.DeleteOfUser(t.Context(), anna)
		if err != nil || n != 9 {
			t.Errorf("deleted %d, %v", n, err)
		}
	}}
	if _, err := s.Put(t.Context(), Upload{ID: i, User: anna, Max: 100}, body); !errors.Is(err, ErrNotFound) {
		t.Errorf("an upload of somebody who was erased meanwhile: %v", err)
	}
	s.settled(t)
	if a, err := s.Audit(t.Context(), false, 0); err != nil || a.Objects != 0 || a.Rows != 0 {
		t.Errorf("left %+v %v", a, err)
	}
	if n, err := s.Reservations(t.Context(), anna); err != nil || n != 0 {
		t.Errorf("%d reservations left, %v", n, err)
	}
}

// What users and servers have is summed over all shards, in any order.
func TestStatistics(t *testing.T) {
	s := open(t, "")
	for n := range 40 { // so many that each user has some in both shards
		user := []id.User{"@anna:a.example", "@bert:a.example", "@cora:a.example"}[n%3]
		_, err := s.Put(t.Context(), Upload{ID: NewID(here), User: user, Max: 100}, strings.NewReader(strings.Repeat("x", n%3+1)+fmt.Sprint(n)))
		must(t, err)
	}
	_, err := s.Put(t.Context(), Upload{ID: ID{"b.example", "x"}, Remote: true, Max: 100}, strings.NewReader("remote"))
	must(t, err)
	names := func(q Statistics) (all []string) {
		t.Helper()
		found, total, err := s.Statistics(t.Context(), q)
		must(t, err)
		for _, f := range found {
			all = append(all, fmt.Sprint(f.Who, " ", f.Items))
		}
		return append(all, fmt.Sprint(total))
	}
	for want, q := range map[string]Statistics{
		"@anna:a.example 14 @bert:a.example 13 @cora:a.example 13 3":  {Limit: 10},
		"@cora:a.example 13 @bert:a.example 13 3":                     {Limit: 2, Descending: true},
		"@cora:a.example 13 3":                                        {Limit: 1, By: ByBytes, Descending: true},
		"@bert:a.example 13 3":                                        {Limit: 1, By: ByItems},
		"@anna:a.example 14 1":                                        {Limit: 9, Containing: "nna"},
		"@anna:a.example 14 @bert:a.example 13 @cora:a.example 13 3 ": {Limit: 9, From: 1},
		"a.example 40 b.example 1 2":                                  {Limit: 9, Servers: true},
		"b.example 1 2":                                               {Limit: 1, Servers: true, By: ByBytes},
		"0":                                                           {Limit: 9, From: 1, Until: 2},
	} {
		if got := names(q); strings.Join(got, " ") != strings.TrimSpace(want) {
			t.Errorf("%+v: %q, want %q", q, got, want)
		}
	}
}

func FuzzParseID(f *testing.F) {
	for _, s := range []string{"a.example/abc", "a.example/../../etc/passwd", "[::1]:8448/x", "a.example/%2e%2e", "/", "a/b/c", "a.example/ä"} {
		origin, media, _ := strings.Cut(s, "/")
		f.Add(origin, media)
	}
	f.Fuzz(func(t *testing.T, origin, media string) {
		i, err := ParseID(origin, media)
		if err == nil && (strings.ContainsAny(i.Media, "./\\%\x00\r\n ") || i.Media == "" || string(i.Origin) != origin) {
			t.Errorf("%q / %q is taken", origin, media)
		}
	})
}
