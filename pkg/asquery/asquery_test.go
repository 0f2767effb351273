package asquery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"hanse/pkg/appservice"
	"hanse/pkg/asclient"
	"hanse/pkg/matrix/id"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/userdb"
	logv1 "hanse/proto/log/v1"
)

// silent is a bus on which nobody listens.
type silent struct{}

func (silent) PublishUsers(uint32, ...*logv1.UserSeq) error { return nil }
func (silent) PublishAuth(*logv1.AuthInvalidation) error    { return nil }
func (silent) WakeFedout(uint32) error                      { return nil }

// service is an application service that answers as a test says.
type service struct {
	mu     sync.Mutex
	asked  []string
	answer func(w http.ResponseWriter, r *http.Request)
	reg    *appservice.Service
}

func newService(t *testing.T, name string, answer func(w http.ResponseWriter, r *http.Request)) *service {
	t.Helper()
	s := &service{answer: answer}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer hs-"+name {
			t.Errorf("authorization: %q", r.Header.Get("Authorization"))
		}
		s.mu.Lock()
		s.asked = append(s.asked, r.Method+" "+r.URL.EscapedPath())
		s.mu.Unlock()
		s.answer(w, r)
	}))
	t.Cleanup(srv.Close)
	text := strings.ReplaceAll(`
id: NAME
url: `+srv.URL+`
as_token: as-NAME
hs_token: hs-NAME
sender_localpart: NAMEbot
protocols: [net, NAME]
namespaces:
  users: [{exclusive: true, regex: "@_NAME_.*"}]
  aliases: [{exclusive: true, regex: "#_NAME_.*"}]
`, "NAME", name)
	var err error
	if s.reg, err = appservice.Parse([]byte(text), "a.example"); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *service) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func client(services ...*service) *Client {
	regs := make([]*appservice.Service, len(services))
	for i, s := range services {
		regs[i] = s.reg
	}
	return New(appservice.Of(regs...), asclient.New(asclient.Config{}), nil, nil)
}

func status(code int, body string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		fmt.Fprint(w, body)
	}
}

// Application service API, "Querying".
func TestQueries(t *testing.T) {
	ctx := t.Context()
	s := newService(t, "one", func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "yes") {
			fmt.Fprint(w, "{}")
			return
		}
		status(404, `{"errcode":"M_NOT_FOUND"}`)(w, r)
	})
	c := client(s)
	for range 2 {
		if ok, err := c.User(ctx, "@_one_yes:a.example"); !ok || err != nil {
			t.Errorf("user: %v %v", ok, err)
		}
		if ok, err := c.Alias(ctx, "#_one_yes:a.example"); !ok || err != nil {
			t.Errorf("alias: %v %v", ok, err)
		}
		if ok, err := c.User(ctx, "@_one_no/x:a.example"); ok || err != nil {
			t.Errorf("user who does not exist: %v %v", ok, err)
		}
		// Nobody's, and those of another name of the cluster.
		for _, u := range []id.User{"@anna:a.example", "@_one_yes:b.example"} {
			if ok, err := c.User(ctx, u); ok || err != nil || c.Concerns(u) {
				t.Errorf("%s: %v %v", u, ok, err)
			}
		}
	}
	user, alias, no := "GET /_matrix/app/v1/users/@_one_yes:a.example", "GET /_matrix/app/v1/rooms/%23_one_yes:a.example", "GET /_matrix/app/v1/users/@_one_no%2Fx:a.example"
	if got := s.requests(); !slices.Equal(got, []string{user, alias, no, user, alias}) { // the no is remembered
		t.Errorf("asked: %q", got)
	}
	var nobody *Client
	if ok, err := nobody.User(ctx, "@_one_yes:a.example"); ok || err != nil || nobody.Protocols(ctx, "a.example") != nil || nobody.UserMade(ctx, "@x:y") {
		t.Error("a client that is not there")
	}
}

// Who asks the same at the same time waits for one request, which goes on when the first of them leaves. A service that does not
// answer is left alone for a while, and others are not.
func TestSilentService(t *testing.T) {
	began, release := make(chan struct{}, 8), make(chan struct{})
	s := newService(t, "one", func(w http.ResponseWriter, _ *http.Request) {
		began <- struct{}{}
		<-release
		fmt.Fprint(w, "{}")
	})
	other := newService(t, "two", status(200, "{}"))
	c := client(s, other)
	leaving, leave := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var yes atomic.Int32
	wg.Go(func() {
		if ok, err := c.User(leaving, "@_one_x:a.example"); ok || !errors.Is(err, context.Canceled) {
			t.Errorf("who left got %v %v", ok, err)
		}
	})
	<-began
	for range 5 {
		wg.Go(func() {
			if ok, err := c.User(t.Context(), "@_one_x:a.example"); ok && err == nil {
				yes.Add(1)
			}
		})
	}
	leave()
	if ok, err := c.User(t.Context(), "@_two_x:a.example"); !ok || err != nil { // the other service is not held up
		t.Errorf("the other service: %v %v", ok, err)
	}
	close(release)
	wg.Wait()
	if yes.Load() != 5 {
		t.Errorf("%d got an answer", yes.Load())
	}

	c.silent.Add(s.reg, struct{}{})
	before := len(s.requests())
	for range 2 {
		if ok, err := c.Alias(t.Context(), "#_one_x:a.example"); ok || !errors.Is(err, ErrNoAnswer) {
			t.Errorf("a silent service: %v %v", ok, err)
		}
	}
	if len(s.requests()) != before {
		t.Error("a silent service was asked")
	}
	if a, _, err := c.Ping(t.Context(), s.reg, "t"); err != nil || !a.OK() || !c.answers(s.reg) {
		t.Errorf("ping: %v %v", a.Status, err)
	}
}

// Answers that a service must not give: errors, broken connections, redirects, too much.
func TestBadAnswers(t *testing.T) {
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request){
		"500":      status(500, "{}"),
		"broken":   func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) },
		"too much": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 20<<20)) },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := client(newService(t, "one", answer))
			if ok, err := c.User(t.Context(), "@_one_x:a.example"); ok || (err == nil) != (name == "redirect") {
				t.Errorf("user: %v %v", ok, err)
			}
			c = client(newService(t, "one", answer))
			if got := c.Protocols(t.Context(), "a.example"); len(got) != 0 {
				t.Errorf("protocols: %s", got)
			}
			c = client(newService(t, "one", answer))
			if got := c.Users(t.Context(), "a.example", "net", nil); got == nil || len(got) != 0 {
				t.Errorf("users: %s", got)
			}
		})
	}
}

// Client-server API, "Third-party Networks".
func TestNetworks(t *testing.T) {
	ctx := t.Context()
	one := newService(t, "one", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/_matrix/app/v1/thirdparty/protocol/net":
			fmt.Fprint(w, `{"icon":"i","instances":[{"network_id":"x","desc":"X"}]}`)
		case "/_matrix/app/v1/thirdparty/user/net":
			fmt.Fprintf(w, `[{"userid":"@_one_x:a.example","protocol":"net","fields":{"nick":%q}}, {"userid":1}, 7, null]`, r.URL.Query().Get("nick"))
		case "/_matrix/app/v1/thirdparty/location":
			fmt.Fprint(w, `[{"alias":"#_one_x:a.example","protocol":"net","fields":{}}]`)
		default:
			status(404, `{}`)(w, r)
		}
	})
	two := newService(t, "two", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/_matrix/app/v1/thirdparty/protocol/net" {
			fmt.Fprint(w, `{"instances":[{"network_id":"y"},null]}`)
			return
		}
		fmt.Fprint(w, `{"not":"a list"}`)
	})
	c := client(one, two)
	for range 2 {
		all := c.Protocols(ctx, "a.example")
		var net struct {
			Icon      string
			Instances []map[string]string
		}
		if err := json.Unmarshal(all["net"], &net); err != nil || len(all) != 1 || net.Icon != "i" || len(net.Instances) != 3 ||
			net.Instances[0]["instance_id"] != "one|x" || net.Instances[1]["instance_id"] != "two|y" {
			t.Fatalf("protocols: %s %v", all, err)
		}
	}
	if n := len(one.requests()); n > 3 { // net once; the protocol that it does not describe each time
		t.Errorf("%d requests: %q", n, one.requests())
	}
	if c.Protocol(ctx, "a.example", "net") == nil || c.Protocol(ctx, "a.example", "other") != nil || len(c.Protocols(ctx, "b.example")) != 0 {
		t.Error("one protocol")
	}
	users := c.Users(ctx, "a.example", "net", url.Values{"nick": {"n"}})
	if len(users) != 1 || !strings.Contains(string(users[0]), `"nick":"n"`) {
		t.Errorf("users: %s", users)
	}
	if got := c.Locations(ctx, "a.example", "", url.Values{"alias": {"#_one_x:a.example"}}); len(got) != 1 {
		t.Errorf("locations: %s", got)
	}
	if s, n, ok := c.ParseInstanceID("a.example", "one|x|z"); !ok || s != "one" || n != "x|z" {
		t.Error("instance id", s, n)
	}
	if _, _, ok := c.ParseInstanceID("b.example", "one|x"); ok {
		t.Error("an instance of another name")
	}
}

// MSC3983 and MSC3984.
func TestKeys(t *testing.T) {
	ctx := t.Context()
	s := newService(t, "one", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/_matrix/app/unstable/org.matrix.msc3983/keys/claim":
			fmt.Fprint(w, `{"@_one_x:a.example":{"D":{"other:A":{"key":"no"},"signed_curve25519:A":{"key":"k"}},"E":{"signed_curve25519:B":{"key":"k"}}}}`)
		case "/_matrix/app/unstable/org.matrix.msc3984/keys/query":
			fmt.Fprint(w, `{"device_keys":{"@_one_x:a.example":{"D":{"user_id":"@_one_x:a.example","device_id":"D"},"E":{"user_id":"@evil:a.example","device_id":"E"}},
				"@anna:a.example":{"D":{"user_id":"@anna:a.example","device_id":"D"}}},
				"master_keys":{"@_one_x:a.example":{"user_id":"@_one_x:a.example"},"@anna:a.example":{"user_id":"@anna:a.example"}}}`)
		}
	})
	lacking := newService(t, "two", status(404, `{"errcode":"M_UNRECOGNIZED"}`))
	c := client(s, lacking)
	db := userdb.New(pgtest.New(t), silent{})
	const user, algorithm = id.User("@_one_x:a.example"), "signed_curve25519"
	got, err := c.Claim(ctx, db, user, map[id.Device]string{"D": algorithm})
	if err != nil || len(got) != 1 || string(got["D"][algorithm+":A"]) != `{"key":"k"}` {
		t.Errorf("claimed: %v %v", got, err)
	}
	wanted := map[id.User][]id.Device{user: nil, "@anna:a.example": nil, "@_two_x:a.example": {"D"}}
	for range 2 {
		k := c.Keys(ctx, wanted)
		if len(k.Devices) != 1 || len(k.Devices[user]) != 1 || len(k.Master) != 1 || k.Master[user] == nil {
			t.Errorf("keys: %+v", k)
		}
	}
	if n := len(lacking.requests()); n != 1 {
		t.Errorf("a service that does not know the question was asked %d times", n)
	}
	if got, err := c.Claim(ctx, db, "@_two_x:a.example", map[id.Device]string{"D": algorithm}); err != nil || len(got) != 0 {
		t.Errorf("claimed: %v %v", got, err)
	}
}
