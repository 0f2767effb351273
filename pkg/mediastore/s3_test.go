package mediastore

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"math/rand/v2"
	"net/http"
	"testing"
	"testing/iotest"
	"time"

	"hanse/pkg/mediastore/s3test"
)

// large is enough for several parts of a multipart upload.
const large = 18 << 20

func randomBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

// at calls do once when so many bytes were read.
type at struct {
	r    io.Reader
	left int
	do   func()
}

func (a *at) Read(p []byte) (int, error) {
	n, err := a.r.Read(p[:min(len(p), 64<<10)])
	if a.left > 0 {
		if a.left -= n; a.left <= 0 {
			a.do()
		}
	}
	return n, err
}

// An upload during which the gateway is killed fails, and nothing is left of it; the next one succeeds.
func TestGatewayIsKilledDuringUpload(t *testing.T) {
	g := s3test.New(t)
	s := open(t, g.Bucket())
	content := randomBytes(large)
	for n, after := range []int{1, 1, 6 << 20, 6 << 20, large - 1, large - 1} {
		i, length := NewID(here), int64(n%2*large) // which may be known or not
		body := &at{r: bytes.NewReader(content), left: after, do: g.Kill}
		if _, err := s.Put(t.Context(), Upload{ID: i, User: anna, Max: large, Length: length}, body); err == nil {
			t.Fatalf("the gateway was killed after %d bytes, and the upload succeeded", after)
		}
		if m, err := s.Get(t.Context(), i); err == nil && m.State == Ready {
			t.Errorf("after %d bytes: half an upload is ready", after)
		}
		g.Start()
		s.settled(t)
		if a, err := s.Audit(t.Context(), false, 0); err != nil || a.Objects != 0 || a.Rows != 0 {
			t.Errorf("after %d bytes: left %+v, %v", after, a, err)
		}
		m, err := s.Put(t.Context(), Upload{ID: NewID(here), User: anna, Max: large, Length: length}, bytes.NewReader(content))
		must(t, err)
		if s.content(t, m.ID) != string(content) {
			t.Error("the content is another")
		}
		must(t, s.Delete(t.Context(), m.ID))
	}
}

// A gateway that is killed and comes back at once: what an upload says that it stored is there, whole, and nothing else.
func TestGatewayIsRestartedDuringUpload(t *testing.T) {
	g := s3test.New(t)
	s := open(t, g.Bucket())
	content := randomBytes(large)
	stored := 0
	for n := range 8 {
		body := &at{r: bytes.NewReader(content), left: 1 + n/2*(large/4), do: func() { g.Kill(); g.Start() }}
		m, err := s.Put(t.Context(), Upload{ID: NewID(here), User: anna, Max: large, Length: int64(n % 2 * large)}, body)
		if err != nil {
			t.Logf("after %d bytes: %v", 1+n/2*(large/4), err)
			continue
		}
		stored++
		if s.content(t, m.ID) != string(content) {
			t.Error("the content is another")
		}
	}
	s.settled(t)
	a, err := s.Audit(t.Context(), false, 0)
	must(t, err)
	u, err := s.UserUsage(t.Context(), anna)
	must(t, err)
	if a.Bytes != a.RowBytes || a.Objects != a.Rows || len(a.Unknown)+len(a.Lost) != 0 || u.Items != int64(stored) {
		t.Errorf("%d stored, audit %+v, usage %+v", stored, a, u)
	}
}

// A download during which the gateway is killed breaks off with an error, and goes on from there when it is back.
func TestGatewayIsKilledDuringDownload(t *testing.T) {
	g := s3test.New(t)
	s := open(t, g.Bucket())
	content := randomBytes(large)
	m, err := s.Put(t.Context(), Upload{ID: NewID(here), User: anna, Max: large}, bytes.NewReader(content))
	must(t, err)
	sum := sha256.New()
	kills, got := 0, int64(0)
	for got < large {
		r, err := s.Reader(t.Context(), m.Object, got, -1)
		must(t, err)
		n, err := io.Copy(struct{ hash.Hash }{sum}, &at{r: r, left: 1 << 20, do: func() {
			if kills < 2 {
				kills++
				g.Kill()
			}
		}})
		r.Close()
		if got += n; got < large {
			if err == nil {
				t.Fatalf("half a file of %d bytes has an end", got)
			}
			g.Start()
		}
	}
	if kills != 2 || !bytes.Equal(sum.Sum(nil), m.Hash) {
		t.Errorf("killed %d times, the content is whole: %v", kills, bytes.Equal(sum.Sum(nil), m.Hash))
	}
	g.Kill()
	if _, err := s.Reader(t.Context(), m.Object, 0, -1); err == nil || errors.Is(err, ErrLost) {
		t.Errorf("a store that is away is said to have lost the file: %v", err)
	}
	g.Start()
}

// Lengths around those at which an upload is held, sent in parts, or streamed; and one that is not true.
func TestUploadLengths(t *testing.T) {
	stores(t, func(t *testing.T, s *Store) {
		content := randomBytes(2*partBytes + 1)
		for _, n := range []int{0, 1, heldBytes, heldBytes + 1, partBytes - 1, partBytes, partBytes + 1, 2 * partBytes, 2*partBytes + 1} {
			for _, known := range []bool{true, false} {
				u := Upload{ID: NewID(here), User: anna, Max: 2*partBytes + 1}
				if known {
					u.Length = int64(n)
				}
				m, err := s.Put(t.Context(), u, iotest.HalfReader(bytes.NewReader(content[:n])))
				must(t, err)
				if got := s.content(t, m.ID); got != string(content[:n]) || m.Bytes != int64(n) {
					t.Errorf("%d bytes (known: %v) became %d", n, known, len(got))
				}
				must(t, s.Delete(t.Context(), m.ID))
			}
		}
		for _, length := range []int64{heldBytes + 10, partBytes} {
			_, err := s.Put(t.Context(), Upload{ID: NewID(here), User: anna, Max: partBytes, Length: length}, bytes.NewReader(content[:heldBytes+9]))
			if err == nil && s.s3 != nil {
				t.Errorf("an upload of %d bytes has less", length)
			}
		}
		// Whatever the store has made of what it got of them, somebody knows of it, and deletes it later.
		s.settled(t)
		if a, err := s.Audit(t.Context(), false, 0); err != nil || len(a.Unknown)+len(a.Lost)+len(a.Wrong) != 0 {
			t.Errorf("audit %+v %v", a, err)
		}
		s.now = func() time.Time { return time.Now().Add(2 * lateFor) }
		s.settled(t)
		for _, pool := range s.shards.All() {
			var n int
			if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM media_garbage").Scan(&n); err != nil || n != 0 {
				t.Errorf("%d objects wait for their deletion, %v", n, err)
			}
		}
	})
}

// A link is read by anybody for its time, with the type and the disposition that it was made for.
func TestLink(t *testing.T) {
	s := open(t, s3test.New(t).Bucket())
	m := s.put(t, "linked")
	link, err := s.Link(t.Context(), m.Object, "image/png", "inline; filename=x.png", time.Minute)
	must(t, err)
	resp, err := http.Get(link)
	must(t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	must(t, err)
	if string(raw) != "linked" || resp.Header.Get("Content-Type") != "image/png" || resp.Header.Get("Content-Disposition") != "inline; filename=x.png" {
		t.Errorf("%d %v %q", resp.StatusCode, resp.Header, raw)
	}
	must(t, s.Delete(t.Context(), m.ID))
	if resp, err = http.Get(link); err == nil {
		resp.Body.Close()
	}
	if err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("after the deletion: %v %v", resp, err)
	}
	if link, err := open(t, "").Link(t.Context(), m.Object, "", "", time.Minute); link != "" || err != nil {
		t.Errorf("a directory has links: %q %v", link, err)
	}
}
