package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"hanse/pkg/await"
	"hanse/tools/mxclient"
)

// file is an answer with media.
type file struct {
	status int
	header http.Header
	body   []byte
}

// fetch makes a request of somebody about media to a base URL.
func (s *scene) fetch(client *http.Client, base, token, method, path string, body []byte, headers ...string) file {
	s.Helper()
	req := try(http.NewRequestWithContext(s.ctx, method, base+path, bytes.NewReader(body)))(s)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp := try(client.Do(req))(s)
	defer resp.Body.Close()
	return file{resp.StatusCode, resp.Header, try(io.ReadAll(resp.Body))(s)}
}

// media: files, avatars and thumbnails of one cluster at the other, from whichever replica; uploads that come later; what is
// deleted nobody has from its home any more.
func media(s *scene) {
	const v1 = "/_matrix/client/v1/media"
	picture := new(bytes.Buffer)
	if err := png.Encode(picture, image.NewGray(image.Rect(0, 0, 500, 400))); err != nil {
		s.Fatal(err)
	}
	for home := range len(s.Servers) {
		away := (home + 1) % len(s.Servers)
		alice, bob := s.guide(home), s.guide(away)
		at, from := s.server(home), s.server(away)
		atHome := func(token, method, path string, body []byte, headers ...string) file {
			return s.fetch(at.HTTPClient(), at.BaseURL, token, method, path, body, headers...)
		}
		upload := func(name, typ string, body []byte) string {
			f := atHome(alice.AccessToken, "POST", "/_matrix/media/v3/upload?filename="+url.QueryEscape(name), body, "Content-Type", typ)
			return s.contentURI(f)
		}
		path := upload("Übersicht.png", "image/png", picture.Bytes())
		for i := range 4 {
			replicas := s.direct(away, "media", bob.Session)
			role, n := "media", i%len(replicas)
			if from.Replicas(role) == 0 {
				role = "all"
			}
			base := from.DirectURL(role, n)
			f := s.fetch(http.DefaultClient, base, bob.AccessToken, "GET", v1+"/download"+path, nil)
			if f.status != http.StatusOK || !bytes.Equal(f.body, picture.Bytes()) || f.header.Get("Content-Type") != "image/png" ||
				f.header.Get("Content-Disposition") != "inline; filename*=utf-8''%C3%9Cbersicht.png" {
				s.Fatalf("%d %v, %d bytes", f.status, f.header, len(f.body))
			}
			f = s.fetch(http.DefaultClient, base, bob.AccessToken, "GET", v1+"/thumbnail"+path+"?width=96&height=96&method=crop", nil)
			if c, _, err := image.DecodeConfig(bytes.NewReader(f.body)); err != nil || c.Width != 96 {
				s.Errorf("a thumbnail: %d %+v %v", f.status, c, err)
			}
			f = s.fetch(http.DefaultClient, base, bob.AccessToken, "GET", v1+"/download"+path, nil, "Range", "bytes=10-19")
			if f.status != http.StatusPartialContent || !bytes.Equal(f.body, picture.Bytes()[10:20]) {
				s.Errorf("a range: %d %q", f.status, f.body)
			}
		}
		if f := atHome("", "GET", "/_matrix/media/v3/download"+path, nil); f.status != http.StatusNotFound {
			s.Errorf("a new file by the deprecated path: %d", f.status)
		}

		// An avatar, as the other cluster learns of it.
		avatar := upload("me.png", "image/png", picture.Bytes())
		alice.ask(200, "PUT", "/v3/profile/"+alice.me+"/avatar_url", `{"avatar_url":"mxc:/`+avatar+`"}`)
		if uri := bob.ask(200, "GET", "/v3/profile/"+alice.me+"/avatar_url", "").Get("avatar_url").String(); uri != "mxc:/"+avatar {
			s.Errorf("the avatar is %q", uri)
		}
		f := s.fetch(from.HTTPClient(), from.BaseURL, bob.AccessToken, "GET", v1+"/thumbnail"+avatar+"?width=32&height=32&method=crop", nil)
		if c, _, err := image.DecodeConfig(bytes.NewReader(f.body)); err != nil || c.Width != 32 {
			s.Errorf("the avatar: %d %+v %v", f.status, c, err)
		}

		// Who asks before the upload has come waits for it, also at the other cluster.
		later := s.contentURI(atHome(alice.AccessToken, "POST", "/_matrix/media/v1/create", []byte("{}")))
		f = s.fetch(from.HTTPClient(), from.BaseURL, bob.AccessToken, "GET", v1+"/download/"+at.ServerName+"/unknown", nil)
		if f.status != http.StatusNotFound {
			s.Errorf("an unknown file: %d %s", f.status, f.body)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			f := s.fetch(from.HTTPClient(), from.BaseURL, bob.AccessToken, "GET", v1+"/download"+later+"?timeout_ms=20000", nil)
			if f.status != http.StatusOK || string(f.body) != "at last" {
				s.Errorf("who waits has %d %.100q", f.status, f.body)
			}
		})
		if f := atHome(alice.AccessToken, "PUT", "/_matrix/media/v3/upload"+later, []byte("at last")); f.status != http.StatusOK {
			s.Errorf("the upload: %d %s", f.status, f.body)
		}
		wg.Wait()

		s.deletedMedia(home, away, alice, bob, upload)
	}
}

// contentURI is the path of the URI that an answer has.
func (s *scene) contentURI(f file) string {
	s.Helper()
	var a struct {
		URI string `json:"content_uri"`
	}
	if err := json.Unmarshal(f.body, &a); err != nil || f.status != http.StatusOK || !strings.HasPrefix(a.URI, "mxc://") {
		s.Fatalf("%d %s", f.status, f.body)
	}
	return strings.TrimPrefix(a.URI, "mxc:/")
}

// deletedMedia: what an administrator deletes, and what goes with an account that is erased, is gone from all replicas, and the
// other cluster cannot have it any more.
func (s *scene) deletedMedia(home, away int, alice, bob *guide, upload func(name, typ string, body []byte) string) {
	s.Helper()
	const v1 = "/_matrix/client/v1/media"
	at, from := s.server(home), s.server(away)
	boss := try(at.API.RegisterShared(s.ctx, at.SharedSecret, s.name("boss"), password, true))(s)
	gone := func(path string) {
		s.Helper()
		for _, c := range s.direct(home, "media", boss.Session) {
			await.Nil(s, time.Minute, "a file that was deleted is gone", func() error {
				if err := c.Do(s.ctx, mxclient.Call{Method: "GET", Path: v1 + "/download" + path}); !mxclient.IsCode(err, "M_NOT_FOUND") {
					return fmt.Errorf("it is there: %w", err)
				}
				return nil
			})
		}
		if f := s.fetch(from.HTTPClient(), from.BaseURL, bob.AccessToken, "GET", v1+"/download"+path, nil); f.status != http.StatusNotFound {
			s.Errorf("the other cluster has a file that was deleted: %d %s", f.status, f.body)
		}
	}
	path := upload("x.txt", "text/plain", []byte("deleted by an administrator"))
	if err := boss.Do(s.ctx, mxclient.Call{Method: "DELETE", Path: "/_synapse/admin/v1/media" + path}); err != nil {
		s.Fatal(err)
	}
	gone(path)
	path = upload("x.txt", "text/plain", []byte("deleted with the account"))
	session := alice.ask(401, "POST", "/v3/account/deactivate", `{}`).Get("session").String()
	auth := try(json.Marshal(map[string]any{"erase": true, "auth": map[string]any{"type": "m.login.password", "session": session, "password": password,
		"identifier": map[string]string{"type": "m.id.user", "user": alice.UserID}}}))(s)
	alice.ask(200, "POST", "/v3/account/deactivate", string(auth))
	gone(path)
}
