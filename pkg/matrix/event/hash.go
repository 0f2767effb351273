package event

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/signing"
)

func decodeHash(s string) ([]byte, error) { return signing.Decode(s) }

// contentHash covers everything but what is added later.
func contentHash(o canonjson.Object) [32]byte {
	return sha256.Sum256(o.Without("unsigned", "signatures", "hashes").Bytes())
}

// ReferenceHash returns the hash by which other events name this one (server-server API, section "Calculating the
// reference hash for an event"). The event must be canonical.
func ReferenceHash(raw []byte, rules *roomversion.Rules) ([32]byte, error) {
	o, err := canonjson.ParseObject(raw)
	if err != nil {
		return [32]byte{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return referenceHash(o, rules)
}

func referenceHash(o canonjson.Object, rules *roomversion.Rules) ([32]byte, error) {
	b, err := essence(o, rules)
	if err != nil {
		return [32]byte{}, err
	}
	return sha256.Sum256(b), nil
}

// essence is what signatures and the reference hash cover: the redacted event without signatures.
func essence(o canonjson.Object, rules *roomversion.Rules) ([]byte, error) {
	kept, err := redactObject(o, rules)
	if err != nil {
		return nil, err
	}
	return kept.Without("signatures", "unsigned", "age_ts").Bytes(), nil
}

func eventID(hash [32]byte, rules *roomversion.Rules) id.Event {
	if rules.EventID == 2 {
		return id.Event("$" + base64.RawStdEncoding.EncodeToString(hash[:]))
	}
	return id.Event("$" + base64.RawURLEncoding.EncodeToString(hash[:]))
}
