package fedout

import (
	"testing"
	"time"

	"hanse/pkg/matrix/signing"
)

// What a server says of its keys is taken only if it is signed, and never for longer than it may be trusted.
func FuzzParseKeys(f *testing.F) {
	key, err := signing.FromSeed("ed25519:1", make([]byte, 32))
	if err != nil {
		f.Fatal(err)
	}
	doc := `{"old_verify_keys":{"ed25519:0":{"expired_ts":1,"key":"` + signing.Encode(key.Public()) + `"}},"server_name":"a.test","valid_until_ts":99,"verify_keys":{"ed25519:1":{"key":"` + signing.Encode(key.Public()) + `"}}}`
	signed, err := signing.SignJSON([]byte(doc), "a.test", key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Add([]byte(doc))
	f.Add([]byte(`{"server_name":"a.test","verify_keys":{}}`))
	now := time.Now()
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, err := parseKeys("a.test", raw, now)
		if err != nil {
			return
		}
		signed := false
		for keyID, k := range a.keys {
			if len(k.Public) != 32 || signing.CheckKeyID(keyID) != nil {
				t.Errorf("key %q of %d bytes", keyID, len(k.Public))
			}
			if !k.Expired && k.ValidUntil > now.Add(8*24*time.Hour).UnixMilli() {
				t.Errorf("key %q is trusted until %d", keyID, k.ValidUntil)
			}
			signed = signed || signing.VerifyJSON(a.json, "a.test", keyID, k.Public) == nil
		}
		if !signed {
			t.Error("keys were taken from an answer without a signature")
		}
	})
}
