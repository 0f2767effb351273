package edge

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestRoleOf(t *testing.T) {
	for path, want := range map[string]string{
		"/_matrix/client/v3/sync":                       RoleSync,
		"/_matrix/client/r0/sync":                       RoleSync,
		"/_matrix/client/v3/rooms/!sync/sync":           RoleClient,
		"/_matrix/client/versions":                      RoleClient,
		"/_matrix/federation/v1/send/1":                 RoleFedin,
		"/_matrix/key/v2/server":                        RoleFedin,
		"/_matrix/media/v3/upload":                      RoleMedia,
		"/_synapse/admin/v1/users/@a:b/media":           RoleMedia,
		"/_synapse/admin/v1/user/@a:b/media/quarantine": RoleMedia,
		"/_synapse/admin/v1/purge_media_cache":          RoleMedia,
		"/_synapse/admin/v1/media/a.example/x":          RoleMedia,
		"/_synapse/admin/v1/media/delete":               RoleMedia,
		"/_synapse/admin/v1/room/!a:b/media":            RoleMedia,
		"/_synapse/admin/v1/room/!a:b/media/quarantine": RoleMedia,
		"/_synapse/admin/v1/quarantine_media/!a:b":      RoleMedia,
		"/_synapse/admin/v1/statistics/users/media":     RoleMedia,
		"/_synapse/admin/v1/users/media":                RoleClient,
		"/_synapse/admin/v1/users/@a:b/devices":         RoleClient,
		"/_matrix/client/v1/media/download/x/y":         RoleMedia,
		"/.well-known/matrix/server":                    RoleClient,
		"/.well-known/matrix/client":                    RoleClient,
		"/_synapse/admin/v1/register":                   RoleClient,
		"/_matrix/client/v3/rooms/x/send/m.room/1":      RoleClient,
		"/_matrix/client/v3/syncs":                      RoleClient,
		"/_matrix/client/unstable/org.matrix/x/syn":     RoleClient,
	} {
		if got := roleOf(path); got != want {
			t.Errorf("roleOf(%q) = %s, want %s", path, got, want)
		}
	}
}

// replica is a server that says who it is.
type replica struct {
	*httptest.Server
	ready atomic.Bool
	hits  atomic.Int64
}

func newReplica(t *testing.T, name string) *replica {
	r := &replica{}
	r.ready.Store(true)
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/readyz" {
			if !r.ready.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return
		}
		r.hits.Add(1)
		if strings.HasSuffix(req.URL.Path, "/die") {
			panic(http.ErrAbortHandler)
		}
		body, _ := io.ReadAll(req.Body)
		fmt.Fprintf(w, "%s %s %s", name, body, req.Header.Get("X-Forwarded-For"))
	}))
	t.Cleanup(r.Close)
	return r
}

func start(t *testing.T, replicas ...*replica) string {
	t.Helper()
	return "http://" + startEdge(t, replicas...).Addr(0)
}

func startEdge(t *testing.T, replicas ...*replica) *Edge {
	t.Helper()
	var list []Backend
	for _, r := range replicas {
		list = append(list, Backend{URL: r.URL, Health: r.URL + "/readyz"})
	}
	e, err := New(Config{
		Listeners:   []Listener{{Addr: "127.0.0.1:0"}},
		Backends:    map[string][]Backend{RoleClient: list, RoleSync: list},
		HealthEvery: 5 * time.Millisecond,
		Log:         slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return e
}

func do(t *testing.T, method, url, token, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestSyncsOfATokenStayTogether(t *testing.T) {
	a, b := newReplica(t, "a"), newReplica(t, "b")
	base := start(t, a, b)
	seen := map[byte]int{}
	for i := range 40 {
		token := fmt.Sprintf("token%d", i)
		_, first := do(t, "GET", base+"/_matrix/client/v3/sync", token, "")
		_, second := do(t, "GET", base+"/_matrix/client/v3/sync?access_token=other", token, "")
		if first[0] != second[0] {
			t.Fatalf("%s went to %s, then to %s", token, first, second)
		}
		seen[first[0]]++
	}
	if len(seen) != 2 {
		t.Errorf("all tokens went to one replica: %v", seen)
	}
}

func TestDeadReplicaIsSkipped(t *testing.T) {
	a, b := newReplica(t, "a"), newReplica(t, "b")
	base := start(t, a, b)
	a.Close()
	for i := range 20 {
		status, body := do(t, "POST", base+"/x", "", fmt.Sprint("body", i))
		if status != 200 || !strings.HasPrefix(body, fmt.Sprint("b body", i)) {
			t.Fatalf("%d %s", status, body)
		}
	}
}

func TestUnreadyReplicaGetsNothing(t *testing.T) {
	a, b := newReplica(t, "a"), newReplica(t, "b")
	base := start(t, a, b)
	a.ready.Store(false)
	deadline := time.Now().Add(2 * time.Minute)
	for { // until the proxy has noticed: four in a row go to b
		n := 0
		for ; n < 4; n++ {
			if _, body := do(t, "GET", base+"/x", "", ""); body[0] != 'b' {
				break
			}
		}
		if n == 4 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("an unready replica still gets requests")
		}
	}
	b.ready.Store(false) // nobody is ready: trying is better than refusing
	if status, _ := do(t, "GET", base+"/x", "", ""); status != 200 {
		t.Errorf("status %d", status)
	}
}

func TestBrokenAnswersAreRetriedOnlyIfIdempotent(t *testing.T) {
	a, b := newReplica(t, "a"), newReplica(t, "b")
	base := start(t, a, b)
	for method, want := range map[string]int64{"PUT": 2, "POST": 1} {
		before := a.hits.Load() + b.hits.Load()
		status, _ := do(t, method, base+"/die", "", "x")
		if status != http.StatusBadGateway {
			t.Errorf("%s: status %d", method, status)
		}
		if got := a.hits.Load() + b.hits.Load() - before; got != want {
			t.Errorf("%s was tried %d times, want %d", method, got, want)
		}
	}
}

func TestForwardedAddressIsTheClients(t *testing.T) {
	base := start(t, newReplica(t, "a"))
	if _, body := do(t, "GET", base+"/x", "", ""); !strings.HasSuffix(body, " 127.0.0.1") {
		t.Errorf("body %q", body)
	}
}

func TestCut(t *testing.T) {
	e := startEdge(t, newReplica(t, "a"))
	base := "http://" + e.Addr(0)
	e.Cut(RoleClient, true)
	if resp, err := http.Get(base + "/x"); err == nil {
		resp.Body.Close()
		t.Errorf("a cut role answers %s", resp.Status)
	}
	if status, _ := do(t, "GET", base+"/_matrix/client/v3/sync", "t", ""); status != 200 {
		t.Errorf("another role: status %d", status)
	}
	e.Cut(RoleClient, false)
	if status, _ := do(t, "GET", base+"/x", "", ""); status != 200 {
		t.Errorf("afterwards: status %d", status)
	}
}
