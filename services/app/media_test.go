package app_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"hanse/services/app"
)

// administrator registers an administrator by the shared secret.
func (w *world) administrator(t *testing.T) *person {
	t.Helper()
	p := &person{t: t, w: w}
	const path, name, password = "/_synapse/admin/v1/register", "boss", "a long secret"
	nonce := p.do("GET", path, nil).ok().str("nonce")
	mac := hmac.New(sha1.New, []byte("shared"))
	fmt.Fprintf(mac, "%s\x00%s\x00%s\x00admin", nonce, name, password)
	a := p.do("POST", path, object{"nonce": nonce, "username": name, "password": password, "admin": true, "mac": hex.EncodeToString(mac.Sum(nil))}).ok()
	p.id, p.token = a.str("user_id"), a.str("access_token")
	return p
}

// upload uploads a file, and returns its mxc URI.
func (p *person) upload(content string) string {
	p.t.Helper()
	return p.do("POST", "/_matrix/media/v3/upload", content).ok().str("content_uri")
}

// fromAll asks each worker for a file.
func (p *person) fromAll(uri string) (answers []*reply) {
	p.t.Helper()
	for _, base := range p.w.urls {
		req, err := http.NewRequest("GET", base+"/_matrix/client/v1/media/download/"+strings.TrimPrefix(uri, "mxc://"), http.NoBody)
		if err != nil {
			p.t.Fatal(err)
		}
		answers = append(answers, p.request(req))
	}
	return answers
}

// Synapse's admin API: the media of a room, deletion by date and size that leaves avatars alone, and what users have.
func TestAdministrationOfMedia(t *testing.T) {
	w := newWorldOf(t, [][]string{nil, nil}, func(cfg *app.Config) { cfg.Client.Registration.SharedSecret = "shared" })
	boss, anna, bert := w.administrator(t), w.register(t, "anna"), w.register(t, "bert")
	const admin = "/_synapse/admin/v1"
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	picture, small, ofBert := anna.upload("a picture"), anna.upload("a small picture"), bert.upload("of bert")
	anna.send(room, "m.room.message", object{"msgtype": "m.image", "body": "x", "url": picture, "info": object{"thumbnail_url": small}})
	anna.send(room, "m.room.message", object{"msgtype": "m.image", "body": "again", "url": picture, "info": "none"})
	for n := range 3 {
		bert.send(room, "m.sticker", object{"body": "x", "url": ofBert, "info": object{}})
		bert.send(room, "m.room.message", object{"msgtype": "m.image", "body": "x", "url": fmt.Sprint("mxc://remote.example/file", n)})
		bert.send(room, "m.room.message", object{"msgtype": "m.image", "body": "x", "url": "https://example.org/x"})
		bert.send(room, "m.room.message", object{"msgtype": "m.image", "body": "x", "url": object{}})
		bert.send(room, "m.room.message", object{"msgtype": "m.image", "body": "x", "url": "mxc://remote.example/.."})
	}
	elsewhere := anna.upload("in another room")
	of := admin + "/room/" + url.PathEscape(room) + "/media"
	anna.do("GET", of, nil).fails(403, "M_FORBIDDEN")
	boss.do("GET", admin+"/room/"+url.PathEscape("!none:hanse.test")+"/media", nil).fails(404, "M_NOT_FOUND")
	boss.do("GET", admin+"/room/none/media", nil).fails(400, "M_INVALID_PARAM")
	all := boss.do("GET", of, nil).ok()
	local, remote := all.texts("local"), all.texts("remote")
	slices.Sort(local)
	slices.Sort(remote)
	want := []string{picture, small, ofBert}
	slices.Sort(want)
	if !slices.Equal(local, want) || !slices.Equal(remote, []string{"mxc://remote.example/file0", "mxc://remote.example/file1", "mxc://remote.example/file2"}) {
		t.Errorf("media of the room: %s", all.raw)
	}

	stats := boss.do("GET", admin+"/statistics/users/media?order_by=media_length&dir=b&limit=1", nil).ok()
	if stats.get("total").Int() != 2 || stats.str("users.0.user_id") != anna.id || stats.get("users.0.media_count").Int() != 3 ||
		stats.get("users.0.media_length").Int() != int64(len("a picture"+"a small picture"+"in another room")) || stats.get("next_token").Int() != 1 {
		t.Errorf("statistics: %s", stats.raw)
	}
	if s := boss.do("GET", admin+"/statistics/users/media?from=1&search_term=bert", nil).ok(); s.get("total").Int() != 1 || len(s.texts("users")) != 0 {
		t.Errorf("statistics behind their end: %s", s.raw)
	}
	if s := boss.do("GET", admin+"/statistics/users/media?from_ts=1&until_ts=2", nil).ok(); s.get("total").Int() != 0 {
		t.Errorf("statistics of 1970: %s", s.raw)
	}
	if s := boss.do("GET", admin+"/statistics/users/media?from_ts=1&order_by=media_count", nil).ok(); s.get("total").Int() != 2 || s.str("users.0.user_id") != bert.id {
		t.Errorf("statistics since a time: %s", s.raw)
	}
	for _, q := range []string{"order_by=displayname", "dir=up", "from=-1", "until_ts=x", "search_term=", "from_ts=2&until_ts=1"} {
		boss.do("GET", admin+"/statistics/users/media?"+q, nil).fails(400, "M_INVALID_PARAM")
	}

	// bert's picture is in quarantine with the room's; what is protected is not.
	boss.do("POST", admin+"/media/protect/"+small[strings.LastIndex(small, "/")+1:], object{}).ok()
	if n := boss.do("POST", of+"/quarantine", object{}).ok().get("num_quarantined").Int(); n != 2 {
		t.Errorf("%d in quarantine", n)
	}
	for uri, status := range map[string]int{picture: 404, ofBert: 404, small: 200, elsewhere: 200} {
		for _, a := range bert.fromAll(uri) {
			if a.status != status {
				t.Errorf("%s: %d %s", a.what, a.status, a.raw)
			}
		}
	}
	if n := boss.do("POST", admin+"/quarantine_media/"+url.PathEscape(room), object{}).ok().get("num_quarantined").Int(); n != 2 {
		t.Errorf("%d in quarantine again", n)
	}

	avatar, ofRoom, tiny := anna.upload("the avatar of anna"), anna.upload("the avatar of the room"), anna.upload("tiny")
	anna.do("PUT", v3+"/profile/"+anna.id+"/avatar_url", object{"avatar_url": avatar}).ok()
	anna.set(room, "m.room.avatar", "", object{"url": ofRoom})
	old := admin + "/media/delete?before_ts=9999999999999"
	for _, q := range []string{"", "?before_ts=1", "?before_ts=x", "?before_ts=9999999999999&size_gt=-1", "?before_ts=9999999999999&keep_profiles=perhaps"} {
		boss.do("POST", admin+"/media/delete"+q, object{}).fails(400, "M_INVALID_PARAM")
	}
	boss.do("POST", admin+"/media/remote.example/delete?before_ts=9999999999999", object{}).fails(400, "M_INVALID_PARAM")
	anna.do("POST", old, object{}).fails(403, "M_FORBIDDEN")
	gone := boss.do("POST", old+"&size_gt=4", object{}).ok()
	if gone.get("total").Int() != 1 || !strings.HasSuffix(elsewhere, "/"+gone.str("deleted_media.0")) {
		t.Errorf("deleted %s, want %s only: the others are avatars, in quarantine, protected, or too small", gone.raw, elsewhere)
	}
	if n := boss.do("POST", old, object{}).ok().get("total").Int(); n != 1 {
		t.Errorf("%d deleted, want the tiny one", n)
	}
	if n := boss.do("POST", admin+"/media/hanse.test/delete?before_ts=9999999999999&keep_profiles=false", object{}).ok().get("total").Int(); n != 2 {
		t.Errorf("%d deleted, want both avatars", n)
	}
	for _, uri := range []string{avatar, ofRoom, tiny, elsewhere} {
		for _, a := range bert.fromAll(uri) {
			a.fails(404, "M_NOT_FOUND")
		}
	}
}

// Client-server API, "Account deactivation": with erase the files of a user go, too, and only then.
func TestErasedUsersFilesGo(t *testing.T) {
	w := newWorld(t)
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	close := func(p *person, erase bool) {
		t.Helper()
		auth := object{"type": "m.login.password", "identifier": object{"type": "m.id.user", "user": p.id}, "password": "a long secret"}
		p.do("POST", v3+"/account/deactivate", object{"erase": erase, "auth": auth}).ok()
	}
	for _, erase := range []bool{false, true} {
		cora := w.register(t, "cora")
		var files []string
		for n := range 20 {
			files = append(files, cora.upload(fmt.Sprint("file ", n, erase)))
		}
		same := bert.upload(fmt.Sprint("file 0", erase))
		cora.do("PUT", v3+"/profile/"+cora.id+"/avatar_url", object{"avatar_url": files[0]}).ok()
		close(cora, erase)
		// They are deleted by the time of the answer, unless that takes long: then soon.
		eventually(t, "the files are as they should be", func() bool {
			for _, uri := range files {
				for _, a := range anna.fromAll(uri) {
					if (a.status == 404) != erase {
						return false
					}
				}
			}
			return true
		})
		for _, a := range anna.fromAll(same) {
			a.ok() // the same bytes of somebody else
		}
	}
}
