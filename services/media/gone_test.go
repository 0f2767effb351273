package media

import (
	"errors"
	"io"
	"net/url"
	"strings"
	"testing"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/mediastore"
	"hanse/pkg/mediastore/s3test"
	"hanse/pkg/userdb"
	mediav1 "hanse/proto/media/v1"
)

// objectStores runs a test with each kind of object store; change sets it.
func objectStores(t *testing.T, test func(t *testing.T, change func(*Config))) {
	t.Run("file", func(t *testing.T) { test(t, func(*Config) {}) })
	t.Run("S3", func(t *testing.T) {
		bucket := s3test.New(t).Bucket()
		test(t, func(cfg *Config) { cfg.Store.URL = bucket })
	})
}

// served asks a worker for a media as fedin does for another server.
func (c *cluster) served(path string, thumbnail *mediav1.Thumbnail) ([]byte, error) {
	origin, media, _ := strings.Cut(path[1:], "/")
	stream, err := c.Serve(c.t.Context(), &mediav1.ServeRequest{Origin: origin, MediaId: media, Thumbnail: thumbnail})
	if err != nil {
		return nil, err
	}
	var all []byte
	for {
		piece, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, piece.Chunk...)
	}
}

// What is deleted, by whom ever, is gone when that has returned: from the store, from both workers, with its thumbnails, and
// for other servers. What is in quarantine nobody has, either.
func TestDeletedIsGoneEverywhere(t *testing.T) { objectStores(t, testDeletedIsGoneEverywhere) }

func testDeletedIsGoneEverywhere(t *testing.T, change func(*Config)) {
	c := newCluster(t, change, func(cfg *Config) { cfg.Retention = Retention{LocalAge: 24 * time.Hour} })
	reader, boss := c.login("@reader:a.example"), c.login("@boss:a.example", func(a *userdb.NewAccount) { a.Admin = true })
	one, two := c.workers[0], c.workers[1]
	small := &mediav1.Thumbnail{Width: 96, Height: 96, Method: "crop"}
	const admin = "/_synapse/admin/v1"
	for n, q := range []struct {
		name   string
		remove func(user id.User, path string)
		stays  bool // in the store
	}{
		{"by its administrator", func(_ id.User, path string) { two.do("DELETE", admin+"/media"+path, boss, nil).ok() }, false},
		{"with all of the user", func(user id.User, _ string) {
			two.do("DELETE", admin+"/users/"+url.PathEscape(string(user))+"/media", boss, nil).ok()
		}, false},
		{"by date and size", func(id.User, string) {
			two.do("POST", admin+"/media/delete?before_ts=9999999999999&size_gt=10", boss, nil).ok()
		}, false},
		{"by retention", func(id.User, string) {
			for _, pool := range c.shards.All() {
				_, err := pool.Exec(t.Context(), "UPDATE media SET created_ts = created_ts - $1", (25 * time.Hour).Milliseconds())
				must(t, err)
			}
			for _, w := range c.workers {
				w.media.retain(t.Context())
			}
		}, false},
		{"by erasure", func(user id.User, _ string) {
			_, err := c.Erase(t.Context(), &mediav1.EraseRequest{UserId: string(user)})
			must(t, err)
		}, false},
		{"in quarantine", func(_ id.User, path string) { two.do("POST", admin+"/media/quarantine"+path, boss, nil).ok() }, true},
	} {
		user := id.User("@user" + string(rune('a'+n)) + ":a.example")
		path := one.upload(c.login(user), "?filename=x.png", pictureOf(t, 300+n, 200), "Content-Type", "image/png")
		for _, w := range c.workers {
			w.do("GET", v1+"/download"+path, reader, nil).ok()
			w.do("GET", v1+"/thumbnail"+path+"?width=96&height=96&method=crop", reader, nil).ok()
		}
		for _, as := range []*mediav1.Thumbnail{nil, small} {
			if b, err := c.served(path, as); err != nil || len(b) == 0 {
				t.Fatalf("%s: another server has %d bytes, %v", q.name, len(b), err)
			}
		}
		began := time.Now()
		q.remove(user, path)
		took := time.Since(began)
		for _, w := range c.workers {
			w.do("GET", v1+"/download"+path, reader, nil).fails(404, "M_NOT_FOUND")
			w.do("GET", v1+"/download"+path, reader, nil, "Range", "bytes=0-9").fails(404, "M_NOT_FOUND")
			w.do("GET", v1+"/thumbnail"+path+"?width=96&height=96&method=crop", reader, nil).fails(404, "M_NOT_FOUND")
		}
		for _, as := range []*mediav1.Thumbnail{nil, small} {
			if b, err := c.served(path, as); err == nil || len(b) != 0 {
				t.Errorf("%s: another server has %d bytes, %v", q.name, len(b), err)
			}
		}
		if !q.stays {
			c.nothingIsKept()
		}
		t.Logf("%s: %v", q.name, took)
	}
}

// With media.link clients that follow redirects read from the store itself, thumbnails too, and other servers are told where.
func TestLinks(t *testing.T) {
	bucket := s3test.New(t).Bucket()
	c := newCluster(t, func(cfg *Config) {
		cfg.Store.URL, cfg.Link = bucket, time.Minute
		cfg.Old.Freeze = time.Now().AddDate(1, 0, 0).Format(time.DateOnly)
	})
	token := c.login(anna)
	picture := pictureOf(t, 300, 200)
	path := c.workers[0].upload(token, "?filename=x.png", picture, "Content-Type", "image/png")
	follow := func(r *reply) *reply {
		t.Helper()
		if r.status != 307 || r.header.Get("Access-Control-Allow-Origin") != "*" {
			t.Fatalf("%s: %d %v", r.what, r.status, r.header)
		}
		resp, err := noRedirects.Get(r.header.Get("Location"))
		must(t, err)
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		must(t, err)
		return &reply{t, "the link", resp.StatusCode, resp.Header, raw}
	}
	w := c.workers[1]
	if r := follow(w.do("GET", v1+"/download"+path, token, nil)).ok(); string(r.raw) != string(picture) || r.header.Get("Content-Type") != "image/png" ||
		r.header.Get("Content-Disposition") != "inline; filename=x.png" {
		t.Errorf("%v, %d bytes", r.header, len(r.raw))
	}
	thumb := "/thumbnail" + path + "?width=96&height=96&method=crop"
	if r := follow(w.do("GET", v1+thumb, token, nil)).ok(); r.header.Get("Content-Type") != "image/png" || len(r.raw) == 0 || string(r.raw) == string(picture) {
		t.Errorf("%v, %d bytes", r.header, len(r.raw))
	}
	// The deprecated paths redirect who says so only.
	old := "/_matrix/media/v3"
	w.do("GET", old+"/download"+path, "", nil).ok()
	w.do("GET", old+thumb, "", nil).ok()
	follow(w.do("GET", old+"/download"+path+"?allow_redirect=true", "", nil)).ok()
	follow(w.do("GET", old+thumb+"&allow_redirect=true", "", nil)).ok()
	w.do("GET", old+"/download"+path+"?allow_redirect=1", "", nil).fails(400, "M_INVALID_PARAM")
	origin, media, _ := strings.Cut(path[1:], "/")
	stream, err := c.Serve(t.Context(), &mediav1.ServeRequest{Origin: origin, MediaId: media})
	must(t, err)
	piece, err := stream.Recv()
	must(t, err)
	if piece.Head.Location == "" || len(piece.Chunk) != 0 {
		t.Errorf("another server is told %v", piece)
	}
	link := w.do("GET", v1+"/download"+path, token, nil)
	must(t, w.store.Delete(t.Context(), mediastore.ID{Origin: "a.example", Media: media}))
	if r := follow(link); r.status != 404 {
		t.Errorf("what was deleted is read by a link that was made before: %d", r.status)
	}
}
