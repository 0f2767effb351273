package media

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"hanse/pkg/userdb"
)

// Synapse's admin API for media: only for administrators, and what is deleted or quarantined is not served by any worker.
func TestAdministration(t *testing.T) {
	c := newCluster(t)
	token, boss := c.login(anna), c.login("@boss:a.example", func(a *userdb.NewAccount) { a.Admin = true })
	one, two := c.workers[0], c.workers[1]
	const admin = "/_synapse/admin/v1"
	var paths []string
	for _, content := range []string{"one", "two", "bad", "bad", "five"} {
		paths = append(paths, one.upload(token, "?filename=x.txt", []byte(content), "Content-Type", "text/plain"))
	}
	of := admin + "/users/" + url.PathEscape(string(anna)) + "/media"
	gone := func(path string) {
		t.Helper()
		for _, w := range c.workers {
			w.do("GET", v1+"/download"+path, token, nil).fails(404, "M_NOT_FOUND")
		}
	}
	for method, path := range map[string]string{"GET": of, "DELETE": admin + "/media" + paths[0], "POST": admin + "/media/quarantine" + paths[0]} {
		one.do(method, path, token, nil).fails(403, "M_FORBIDDEN")
		one.do(method, path, "", nil).fails(401, "M_MISSING_TOKEN")
	}
	list := two.do("GET", of+"?limit=2", boss, nil).ok().json()
	if media, _ := list["media"].([]any); len(media) != 2 || list["total"] != 5.0 || list["next_token"] != 2.0 || media[0].(map[string]any)["upload_name"] != "x.txt" {
		t.Errorf("list %v", list)
	}
	two.do("GET", of+"?limit=x", boss, nil).fails(400, "M_INVALID_PARAM")
	two.do("POST", admin+"/media/quarantine"+paths[2], boss, []byte("{}")).ok()
	gone(paths[2])
	gone(paths[3])
	if by := two.do("GET", admin+"/media"+paths[3], boss, nil).ok().json()["media_info"].(map[string]any)["quarantined_by"]; by != "@boss:a.example" {
		t.Errorf("quarantined by %v", by)
	}
	two.do("POST", admin+"/media/unquarantine"+paths[2], boss, nil).ok()
	one.do("GET", v1+"/download"+paths[2], token, nil).ok()
	_, local, _ := strings.Cut(paths[1][1:], "/")
	two.do("POST", admin+"/media/protect/"+local, boss, nil).ok()
	if n := one.do("POST", admin+"/user/"+url.PathEscape(string(anna))+"/media/quarantine", boss, nil).ok().json()["num_quarantined"]; n != 3.0 {
		t.Errorf("quarantined %v", n)
	}
	one.do("GET", v1+"/download"+paths[1], token, nil).ok()
	if total := two.do("DELETE", admin+"/media"+paths[1], boss, nil).ok().json()["total"]; total != 1.0 {
		t.Errorf("deleted %v", total)
	}
	gone(paths[1])
	two.do("DELETE", admin+"/media"+paths[1], boss, nil).fails(404, "M_NOT_FOUND")
	if total := two.do("DELETE", of, boss, nil).ok().json()["total"]; total != 4.0 {
		t.Errorf("deleted %v", total)
	}
	if a, err := one.store.Audit(t.Context(), false, 0); err != nil || a.Objects != 0 || a.Rows != 0 {
		t.Errorf("audit %+v %v", a, err)
	}
	c.remote.answers(func(w *remoteAnswer, _ string) { w.multipart("", "remote") })
	one.do("GET", v1+"/download/remote.example/x", token, nil).ok()
	two.do("POST", admin+"/purge_media_cache", boss, nil).fails(400, "M_INVALID_PARAM")
	if n := two.do("POST", admin+"/purge_media_cache?before_ts=9999999999999", boss, nil).ok().json()["deleted"]; n != 1.0 {
		t.Errorf("purged %v", n)
	}
}

// Retention deletes what nobody has used for long, and what is old, each worker in its own partitions.
func TestRetention(t *testing.T) {
	c := newCluster(t, func(cfg *Config) { cfg.Retention = Retention{Local: 48 * time.Hour, Remote: 24 * time.Hour} })
	token := c.login(anna)
	c.remote.answers(func(w *remoteAnswer, _ string) { w.multipart("", "remote") })
	c.workers[0].do("GET", v1+"/download/remote.example/x", token, nil).ok()
	path := c.workers[0].upload(token, "", []byte("local"))
	age := func(d time.Duration) {
		for _, pool := range c.shards.All() {
			_, err := pool.Exec(t.Context(), "UPDATE media SET accessed_ts = $1", time.Now().Add(-d).UnixMilli())
			must(t, err)
		}
		for _, w := range c.workers {
			w.media.retain(t.Context())
		}
	}
	left := func() int64 {
		a, err := c.workers[0].store.Audit(t.Context(), false, 0)
		must(t, err)
		return a.Objects
	}
	age(23 * time.Hour)
	if n := left(); n != 2 {
		t.Errorf("%d left of what was used today", n)
	}
	age(30 * time.Hour)
	if n := left(); n != 1 {
		t.Errorf("%d left", n)
	}
	c.workers[1].do("GET", v1+"/download"+path, token, nil).ok()
	age(50 * time.Hour)
	if n := left(); n != 0 {
		t.Errorf("%d left", n)
	}
	c.workers[1].do("GET", v1+"/download"+path, token, nil).fails(404, "M_NOT_FOUND")
}
