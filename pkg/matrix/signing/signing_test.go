package signing_test

import (
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
)

// The key file of Synapse: algorithm, version, seed.
func TestKeyFile(t *testing.T) {
	text := "# old\n\ned25519 a_old YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1\n  ed25519   1  YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1=\n"
	keys, err := signing.ParseKeyFile(text)
	if err != nil || len(keys) != 2 || keys[0].ID != "ed25519:a_old" || keys[1].ID != "ed25519:1" {
		t.Fatalf("%v, %v", keys, err)
	}
	if got := signing.FormatKey(keys[0]); got != "ed25519 a_old YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0\n" {
		t.Errorf("FormatKey = %q", got)
	}
	fresh, err := signing.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	again, err := signing.ParseKeyFile(signing.FormatKey(fresh))
	if err != nil || len(again) != 1 || again[0].ID != fresh.ID || !again[0].Private.Equal(fresh.Private) {
		t.Errorf("%v came back as %v, %v", fresh.ID, again, err)
	}
	for _, bad := range []string{"ed25519 a", "rsa a YJDB", "ed25519 a YJDB", "ed25519 a ?", "ed25519 ä YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"} {
		if _, err := signing.ParseKeyFile(bad); err == nil {
			t.Errorf("%q is a key file", bad)
		} else if strings.Contains(err.Error(), "YJDB") {
			t.Errorf("the error tells the seed: %v", err)
		}
	}
}

// Appendices, section "Checking for a Signature".
func TestVerifyJSON(t *testing.T) {
	key := vectorKey(t)
	signed, err := signing.SignJSON([]byte(`{"a":1,"unsigned":{"b":2}}`), "one", key)
	if err != nil {
		t.Fatal(err)
	}
	if signed, err = signing.SignJSON(signed, "two", key); err != nil {
		t.Fatal(err)
	}
	other := *key
	other.ID = "ed25519:2"
	if signed, err = signing.SignJSON(signed, "one", &other); err != nil {
		t.Fatal(err)
	}
	if got := signing.SignatureKeyIDs(signed, "one"); len(got) != 2 || got[0] != "ed25519:1" || got[1] != "ed25519:2" {
		t.Errorf("keys of one: %v", got)
	}
	if got := signing.SignatureKeyIDs(signed, "three"); len(got) != 0 {
		t.Errorf("keys of three: %v", got)
	}
	reordered := strings.Replace(string(signed), `"a":1,`, "", 1)
	reordered = reordered[:len(reordered)-1] + `, "a" : 1 }`
	changedUnsigned := strings.Replace(string(signed), `"b":2`, `"b":3`, 1)
	for _, good := range []string{string(signed), reordered, changedUnsigned} {
		for _, server := range []id.Server{"one", "two"} {
			if err := signing.VerifyJSON([]byte(good), server, key.ID, key.Public()); err != nil {
				t.Errorf("%s by %s: %v", good, server, err)
			}
		}
	}
	changed := strings.Replace(string(signed), `"a":1`, `"a":2`, 1)
	if err := signing.VerifyJSON([]byte(changed), "one", key.ID, key.Public()); !errors.Is(err, signing.ErrSignature) {
		t.Errorf("a change: %v", err)
	}
	if err := signing.VerifyJSON(signed, "three", key.ID, key.Public()); !errors.Is(err, signing.ErrSignature) {
		t.Errorf("no signature: %v", err)
	}
	if err := signing.VerifyJSON(signed, "one", key.ID, key.Public()[:31]); !errors.Is(err, signing.ErrSignature) {
		t.Errorf("a short key: %v", err)
	}
	for _, bad := range []string{``, `[]`, `{"signatures":[]}`, `{"signatures":{"one":1}}`, `{"signatures":{"one":{"ed25519:1":1}}}`, `{"signatures":{"one":{"ed25519:1":"??"}}}`, `{"signatures":{"one":{"ed25519:1":"YQ"}}}`} {
		if err := signing.VerifyJSON([]byte(bad), "one", key.ID, key.Public()); err == nil {
			t.Errorf("%s verifies", bad)
		}
	}
}

// Server-server API, section "Request Authentication".
func TestXMatrixGrammar(t *testing.T) {
	want := signing.XMatrix{Origin: "a.example:8448", Destination: "b.example", KeyID: "ed25519:k_1", Sig: "ab+/c"}
	for _, h := range []string{
		want.String(),
		`X-Matrix   ORIGIN=a.example:8448 ,	Destination="b.example",key="ed25519\:k_1",sig="ab+/c"`,
		`X-Matrix ,,origin="a.example:8448",,key=ed25519:k_1, sig="ab+/c",destination=b.example,`,
		`X-Matrix origin = "a.example:8448",key=ed25519:k_1,sig="ab+/c",destination="b.example",x-new="\"a, b=\""`,
	} {
		if got, err := signing.ParseXMatrix(h); err != nil || got != want {
			t.Errorf("ParseXMatrix(%s) = %+v, %v", h, got, err)
		}
	}
	good := `origin="a.example",key="ed25519:k",`
	for _, h := range []string{
		`X-Matrix ` + good + `sig=ab/c`, `X-Matrix ` + good + `sig=`, `X-Matrix ` + good + `sig=""`, `X-Matrix ` + good + `sig="a" x="b"`, `X-Matrix ` + good + `sig="a"x="b"`,
		`X-Matrix ` + good + `sig="a\"`, `X-Matrix ` + good + `sig="a",="b"`, `X-Matrix ` + good + `sig="a",x`, `X-Matrix ` + good + "sig=\"a\x01\"", `X-Matrix ` + good + `sig="a",SIG="b"`,
		`X-Matrix ` + good + `sig="a",origin:x="b"`, `X-Matrix: ` + good + `sig="a"`, `X-Matrix origin="a/b",key="ed25519:k",sig="a"`, `X-Matrix origin="a",destination="",key="ed25519:k",sig="a"`,
		`X-Matrix ` + good + `sig="a"` + strings.Repeat(",a", 9) + "=1",
	} {
		if got, err := signing.ParseXMatrix(h); err == nil {
			t.Errorf("ParseXMatrix(%s) = %+v", h, got)
		}
	}
}

// What is signed is verified; any other method, URI, origin, destination or content is not.
func TestRequestProperty(t *testing.T) {
	key := vectorKey(t)
	server := rapid.StringMatching(`[a-z0-9.-]{1,20}(:[1-9][0-9]{0,3})?`)
	rapid.Check(t, func(t *rapid.T) {
		method, uri := rapid.SampledFrom([]string{"GET", "PUT", "POST"}).Draw(t, "method"), "/"+rapid.String().Draw(t, "uri")
		origin, destination := id.Server(server.Draw(t, "origin")), id.Server(server.Draw(t, "destination"))
		var content []byte
		if rapid.Bool().Draw(t, "with content") {
			content = []byte(`{"b": [1, 1.5], "a": "` + rapid.StringMatching(`[a-z]*`).Draw(t, "content") + `"}`)
		}
		h, err := signing.SignRequest(method, uri, origin, destination, content, key)
		if err != nil {
			t.Fatal(err)
		}
		x, err := signing.ParseXMatrix(h)
		if err != nil || x.Origin != origin || x.Destination != destination || x.KeyID != key.ID {
			t.Fatalf("%s is %+v, %v", h, x, err)
		}
		if err := signing.VerifyRequest(x, method, uri, content, key.Public()); err != nil {
			t.Fatal(err)
		}
		refused := func(what string, x signing.XMatrix, method, uri string, content []byte, public ed25519.PublicKey) {
			if err := signing.VerifyRequest(x, method, uri, content, public); !errors.Is(err, signing.ErrSignature) {
				t.Fatalf("another %s: %v", what, err)
			}
		}
		refused("method", x, method+"X", uri, content, key.Public())
		refused("uri", x, method, uri+"/", content, key.Public())
		refused("content", x, method, uri, []byte(`{"a":1}`), key.Public())
		refused("key", x, method, uri, content, make([]byte, 32))
		y := x
		y.Origin += "x"
		refused("origin", y, method, uri, content, key.Public())
		y = x
		y.Destination += "x"
		refused("destination", y, method, uri, content, key.Public())
	})
}
