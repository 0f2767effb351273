package about_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"hanse/services/client"
	"hanse/services/client/about"
	"hanse/services/client/clienttest"
)

// Client-server API, "Voice over IP", GET /voip/turnServer.
func TestTURNServer(t *testing.T) {
	turn := about.TURN{URIs: []string{"turn:turn.a.example?transport=udp", "turns:turn.a.example"}, SharedSecret: "north", Lifetime: 2 * time.Hour}
	c := clienttest.New(t, func(cfg *client.Config, _ *client.Deps) { cfg.TURN = turn })
	anna := c.Register("anna")
	before := time.Now().Add(2 * time.Hour).Unix()
	a := anna.Do("GET", clienttest.V3+"/voip/turnServer", nil).OK()
	end, user, _ := strings.Cut(a.Str("username"), ":")
	until, err := strconv.ParseInt(end, 10, 64)
	if err != nil || until < before || until > time.Now().Add(2*time.Hour).Unix() || user != string(anna.ID) {
		t.Errorf("username %q", a.Str("username"))
	}
	if a.Get("ttl") != 7200.0 || fmt.Sprint(a.Get("uris")) != "[turn:turn.a.example?transport=udp turns:turn.a.example]" {
		t.Errorf("answer %s", a.Raw)
	}
	mac := hmac.New(sha1.New, []byte("north"))
	mac.Write([]byte(a.Str("username")))
	if want := base64.StdEncoding.EncodeToString(mac.Sum(nil)); a.Str("password") != want {
		t.Errorf("password %q, want %q", a.Str("password"), want)
	}
	none := client.Defaults().TURN
	if err := none.Validate(); err != nil {
		t.Error(err)
	}
}
