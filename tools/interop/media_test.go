//go:build interop

package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"hanse/tools/mxclient"
)

// file is an answer with media.
type file struct {
	status int
	header http.Header
	body   []byte
}

// fetch makes a request of somebody about media.
func (p *person) fetch(t *testing.T, method, path string, body []byte, headers ...string) file {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, p.server.baseURL+path, bytes.NewReader(body))
	p.must(t, "request", err)
	req.Header.Set("Authorization", "Bearer "+p.AccessToken)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	client := http.DefaultClient
	if p.server.name == "hanse" {
		client = hanse.HTTPClient()
	}
	resp, err := client.Do(req)
	p.must(t, path, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	p.must(t, path, err)
	return file{resp.StatusCode, resp.Header, raw}
}

// upload uploads a file, and returns the path of its URI.
func (p *person) upload(t *testing.T, name, typ string, content []byte) string {
	t.Helper()
	f := p.fetch(t, "POST", "/_matrix/media/v3/upload?filename="+url.QueryEscape(name), content, "Content-Type", typ)
	var a struct {
		URI string `json:"content_uri"`
	}
	if err := json.Unmarshal(f.body, &a); err != nil || f.status != http.StatusOK {
		t.Fatalf("upload on %s: %d %s", p.server.name, f.status, f.body)
	}
	return strings.TrimPrefix(a.URI, "mxc:/")
}

func gradient(w, h int) []byte {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			img.SetRGBA(x, y, color.RGBA{uint8(x), uint8(y), uint8(time.Now().Nanosecond()), 255})
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func width(t *testing.T, f file) int {
	t.Helper()
	c, _, err := image.DecodeConfig(bytes.NewReader(f.body))
	if err != nil || f.status != http.StatusOK {
		t.Fatalf("a thumbnail: %d %.200q, %v", f.status, f.body, err)
	}
	return c.Width
}

const media = "/_matrix/client/v1/media"

// Server-server API, "Content Repository": a file of one server is had from the other, whole, with its type and its name, and
// its thumbnails; an avatar, too.
func TestMedia(t *testing.T) {
	h, s := sides()
	for _, q := range []struct{ on, from server }{{h, s}, {s, h}} {
		t.Run("uploaded on "+q.on.name, func(t *testing.T) {
			t.Parallel()
			owner, guest := newQuiet(t, q.on), newQuiet(t, q.from)
			picture := gradient(800, 600)
			path := owner.upload(t, "Übersicht 1.png", "image/png", picture)
			for range 2 {
				f := guest.fetch(t, "GET", media+"/download"+path, nil)
				if f.status != http.StatusOK || !bytes.Equal(f.body, picture) || f.header.Get("Content-Type") != "image/png" ||
					!strings.Contains(f.header.Get("Content-Disposition"), "%C3%9Cbersicht%201.png") {
					t.Fatalf("%d %v, %d bytes", f.status, f.header, len(f.body))
				}
			}
			if n := width(t, guest.fetch(t, "GET", media+"/thumbnail"+path+"?width=96&height=96&method=crop", nil)); n != 96 {
				t.Errorf("a thumbnail of %d", n)
			}
			if n := width(t, guest.fetch(t, "GET", media+"/thumbnail"+path+"?width=320&height=240&method=scale", nil)); n != 320 {
				t.Errorf("a thumbnail of %d", n)
			}
			large := bytes.Repeat(picture, 1+(5<<20)/len(picture))
			if f := guest.fetch(t, "GET", media+"/download"+owner.upload(t, "large.bin", "application/octet-stream", large), nil); !bytes.Equal(f.body, large) {
				t.Errorf("a large file: %d, %d of %d bytes", f.status, len(f.body), len(large))
			}
			if q.on.name != "synapse" { // Synapse begins its answer for an empty file, and does not go on
				empty := guest.fetch(t, "GET", media+"/download"+owner.upload(t, "", "text/plain", nil), nil)
				if empty.status != http.StatusOK || len(empty.body) != 0 {
					t.Errorf("an empty file: %d %q", empty.status, empty.body)
				}
			}
			if f := guest.fetch(t, "GET", media+"/download/"+q.on.serverName+"/unknown", nil); f.status != http.StatusNotFound {
				t.Errorf("an unknown file: %d %s", f.status, f.body)
			}

			avatar := owner.upload(t, "me.png", "image/png", gradient(200, 200))
			owner.must(t, "set the avatar", owner.Do(t.Context(), mxclient.Call{Method: "PUT",
				Path: "/_matrix/client/v3/profile/" + url.PathEscape(owner.id) + "/avatar_url", Body: map[string]string{"avatar_url": "mxc:/" + avatar}}))
			var profile struct {
				Avatar string `json:"avatar_url"`
			}
			guest.must(t, "read the avatar", guest.Do(t.Context(), mxclient.Call{Method: "GET",
				Path: "/_matrix/client/v3/profile/" + url.PathEscape(owner.id) + "/avatar_url", Out: &profile}))
			if profile.Avatar != "mxc:/"+avatar {
				t.Fatalf("the avatar is %q, want mxc:/%s", profile.Avatar, avatar)
			}
			if n := width(t, guest.fetch(t, "GET", media+"/thumbnail"+avatar+"?width=32&height=32&method=crop", nil)); n != 32 {
				t.Errorf("an avatar of %d", n)
			}
		})
	}
}

// What Hanse has fetched can be read from any offset, and what was deleted at home cannot be had from there any more.
func TestMediaOfSynapse(t *testing.T) {
	h, s := sides()
	owner, guest := newQuiet(t, s), newQuiet(t, h)
	content := bytes.Repeat([]byte("0123456789"), 100_000)
	path := owner.upload(t, "x.txt", "text/plain", content)
	if f := guest.fetch(t, "GET", media+"/download"+path, nil, "Range", "bytes=500000-500009"); f.status != http.StatusPartialContent || string(f.body) != "0123456789" {
		t.Errorf("a range: %d %q", f.status, f.body)
	}
	// The deprecated paths: of a file that is newer than the freeze neither server has anything there, for anybody.
	for _, p := range []*person{owner, guest} {
		if f := p.fetch(t, "GET", "/_matrix/media/v3/download"+path, nil); f.status != http.StatusNotFound {
			t.Errorf("the old path on %s: %d", p.server.name, f.status)
		}
	}
}

// What Hanse deletes another server cannot have any more, if it has not had it before.
func TestDeletedMediaOfHanse(t *testing.T) {
	h, s := sides()
	owner, guest := newQuiet(t, h), newQuiet(t, s)
	had, path := owner.upload(t, "had.txt", "text/plain", []byte("had")), owner.upload(t, "x.txt", "text/plain", []byte("never had"))
	if f := guest.fetch(t, "GET", media+"/download"+had, nil); f.status != http.StatusOK {
		t.Fatalf("before: %d %s", f.status, f.body)
	}
	boss, err := mxclient.New(h.baseURL, mxclient.Options{}).RegisterShared(t.Context(), h.secret, fmt.Sprintf("boss%d", everybody.Add(1)), "interop-password-1", true)
	owner.must(t, "register an administrator", err)
	owner.must(t, "delete", boss.Do(t.Context(), mxclient.Call{Method: "DELETE", Path: "/_synapse/admin/v1/media" + path}))
	if f := guest.fetch(t, "GET", media+"/download"+path, nil); f.status != http.StatusNotFound {
		t.Errorf("after: %d %s", f.status, f.body)
	}
}

// Dendrite has files by the endpoint for servers, but for its own clients by the deprecated paths only.
func TestDendriteMedia(t *testing.T) {
	h, _ := sides()
	d := thirdSide(t)
	owner, guest := newQuiet(t, d), newQuiet(t, h)
	picture := gradient(400, 300)
	path := owner.upload(t, "x.png", "image/png", picture)
	if f := guest.fetch(t, "GET", media+"/download"+path, nil); f.status != http.StatusOK || !bytes.Equal(f.body, picture) || f.header.Get("Content-Type") != "image/png" {
		t.Errorf("%d %v %.200q", f.status, f.header, f.body)
	}
	if n := width(t, guest.fetch(t, "GET", media+"/thumbnail"+path+"?width=96&height=96&method=crop", nil)); n != 96 {
		t.Errorf("a thumbnail of %d", n)
	}
	if f := guest.fetch(t, "GET", media+"/download/"+d.serverName+"/unknown", nil); f.status != http.StatusNotFound {
		t.Errorf("an unknown file: %d %s", f.status, f.body)
	}
	if f := owner.fetch(t, "GET", "/_matrix/media/v3/download"+guest.upload(t, "new.png", "image/png", picture), nil); f.status != http.StatusOK || !bytes.Equal(f.body, picture) {
		t.Errorf("at Dendrite: %d %v %.200q", f.status, f.header, f.body)
	}
}
