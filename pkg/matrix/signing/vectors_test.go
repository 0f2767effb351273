package signing_test

import (
	"testing"

	"hanse/pkg/matrix/signing"
)

func vectorKey(t *testing.T) *signing.Key {
	t.Helper()
	seed, err := signing.Decode("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	if err != nil {
		t.Fatal(err)
	}
	key, err := signing.FromSeed("ed25519:1", seed)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Appendices, section "Cryptographic Test Vectors", "JSON Signing".
func TestSignJSONVectors(t *testing.T) {
	key := vectorKey(t)
	for in, want := range map[string]string{
		`{}`:                    `{"signatures":{"domain":{"ed25519:1":"K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"}}}`,
		`{"one":1,"two":"Two"}`: `{"one":1,"signatures":{"domain":{"ed25519:1":"KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"}},"two":"Two"}`,
	} {
		got, err := signing.SignJSON([]byte(in), "domain", key)
		if err != nil || string(got) != want {
			t.Errorf("SignJSON(%s) = %s, %v; want %s", in, got, err, want)
		}
		if err := signing.VerifyJSON(got, "domain", key.ID, key.Public()); err != nil {
			t.Errorf("VerifyJSON(%s): %v", got, err)
		}
		forged := append([]byte(nil), got...)
		forged[len(forged)-8] ^= 1
		if err := signing.VerifyJSON(forged, "domain", key.ID, key.Public()); err == nil {
			t.Errorf("VerifyJSON(%s) accepts a forgery", forged)
		}
	}
}

// Server-server API, section "Request Authentication".
func TestRequestRoundTrip(t *testing.T) {
	key := vectorKey(t)
	content := []byte(`{"b": 1, "a": [1.5, "ü"]}`)
	h, err := signing.SignRequest("PUT", "/_matrix/federation/v1/send/1?x=%2F", "one.example:8448", "two.example", content, key)
	if err != nil {
		t.Fatal(err)
	}
	x, err := signing.ParseXMatrix(h)
	if err != nil {
		t.Fatal(err)
	}
	if x.Origin != "one.example:8448" || x.Destination != "two.example" || x.KeyID != "ed25519:1" {
		t.Errorf("parsed %+v", x)
	}
	if err := signing.VerifyRequest(x, "PUT", "/_matrix/federation/v1/send/1?x=%2F", content, key.Public()); err != nil {
		t.Error(err)
	}
	if err := signing.VerifyRequest(x, "PUT", "/_matrix/federation/v1/send/2?x=%2F", content, key.Public()); err == nil {
		t.Error("a signature for another URI verifies")
	}
}

func TestParseXMatrix(t *testing.T) {
	good := []string{
		`X-Matrix origin="a.example",destination="b.example",key="ed25519:k",sig="abc"`,
		`X-Matrix origin=a.example, key="ed25519:k" , sig="abc", future="x"`,
		`x-matrix Origin=a.example,KEY=ed25519:k,sig=abc`,
	}
	for _, h := range good {
		if _, err := signing.ParseXMatrix(h); err != nil {
			t.Errorf("ParseXMatrix(%s): %v", h, err)
		}
	}
	bad := []string{
		``, `Bearer abc`, `X-Matrix`, `X-Matrix origin="a.example"`, `X-Matrix origin="a.example,key="ed25519:k",sig="abc"`,
		`X-Matrix origin="a b",key="ed25519:k",sig="abc"`, `X-Matrix origin="a.example",key="rsa:k",sig="abc"`,
		`X-Matrix origin="a.example",origin="b.example",key="ed25519:k",sig="abc"`,
	}
	for _, h := range bad {
		if x, err := signing.ParseXMatrix(h); err == nil {
			t.Errorf("ParseXMatrix(%s) = %+v, want an error", h, x)
		}
	}
}

func FuzzXMatrix(f *testing.F) {
	f.Add(`X-Matrix origin="a.example",destination="b.example",key="ed25519:k",sig="abc"`)
	f.Add(`X-Matrix origin=a.example, key="ed25519:k" , sig="a\"bc"`)
	f.Fuzz(func(t *testing.T, h string) {
		x, err := signing.ParseXMatrix(h)
		if err != nil {
			return
		}
		if x.Origin == "" || x.KeyID == "" || x.Sig == "" {
			t.Fatalf("accepted without a required parameter: %+v", x)
		}
	})
}
