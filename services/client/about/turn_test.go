package about

import (
	"testing"
	"time"
)

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
}
