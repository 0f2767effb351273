package client

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Client-server API, "Voice over IP", GET /voip/turnServer.
func TestTURNServer(t *testing.T) {
	turn := TURN{URIs: []string{"turn:turn.a.example?transport=udp", "turns:turn.a.example"}, SharedSecret: "north", Lifetime: 2 * time.Hour}
	c := newCluster(t, func(cfg *Config, _ *Deps) { cfg.TURN = turn })
	anna := c.register("anna")
	before := time.Now().Add(2 * time.Hour).Unix()
	a := anna.do("GET", v3+"/voip/turnServer", nil).ok()
	end, user, _ := strings.Cut(a.str("username"), ":")
	until, err := strconv.ParseInt(end, 10, 64)
	if err != nil || until < before || until > time.Now().Add(2*time.Hour).Unix() || user != string(anna.id) {
		t.Errorf("username %q", a.str("username"))
	}
	if a.get("ttl") != 7200.0 || fmt.Sprint(a.get("uris")) != "[turn:turn.a.example?transport=udp turns:turn.a.example]" {
		t.Errorf("answer %s", a.raw)
	}
	made := turn.credentials(anna.id, time.Unix(until, 0).Add(-turn.Lifetime))
	if a.str("password") != made.Password {
		t.Errorf("password %q, want %q", a.str("password"), made.Password)
	}
}

// The password as openssl makes it: printf 1700007200:@anna:a.example | openssl dgst -sha1 -hmac north -binary | base64
func TestTURNCredentials(t *testing.T) {
	turn := TURN{URIs: []string{"turn:x"}, SharedSecret: "north", Lifetime: 2 * time.Hour}
	got := turn.credentials("@anna:a.example", time.Unix(1_700_000_000, 0))
	if got.Username != "1700007200:@anna:a.example" || got.Password != "wNma910Gtffo4so9iEo0PdWHf6w=" {
		t.Errorf("%+v", got)
	}
}

func TestBadTURN(t *testing.T) {
	for _, turn := range []TURN{
		{URIs: []string{"turn:x"}, Lifetime: time.Hour},
		{SharedSecret: "x", Lifetime: time.Hour},
		{URIs: []string{"https://x"}, SharedSecret: "x", Lifetime: time.Hour},
		{URIs: []string{"turn:"}, SharedSecret: "x", Lifetime: time.Hour},
		{URIs: []string{"turn:x"}, SharedSecret: "x"},
	} {
		if turn.Validate() == nil {
			t.Errorf("accepted %+v", turn)
		}
	}
	none := Defaults().TURN
	if err := none.Validate(); err != nil {
		t.Error(err)
	}
}
