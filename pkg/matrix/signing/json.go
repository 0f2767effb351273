package signing

import (
	"crypto/ed25519"
	"fmt"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
)

// SignJSON returns the object with a signature added. What is signed is its canonical form without signatures and
// unsigned; the object itself must be canonical.
func SignJSON(obj []byte, server id.Server, key *Key) ([]byte, error) {
	o, err := canonjson.ParseObject(obj)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	o, err = AddSignature(o, server, key.ID, key.Sign(o.Without("signatures", "unsigned").Bytes()))
	if err != nil {
		return nil, err
	}
	return o.Bytes(), nil
}

// AddSignature puts a signature among those of the object.
func AddSignature(o canonjson.Object, server id.Server, keyID string, signature []byte) (canonjson.Object, error) {
	all, err := member(o, "signatures")
	if err != nil {
		return nil, err
	}
	ours, err := member(all, string(server))
	if err != nil {
		return nil, err
	}
	ours = ours.With(keyID, canonjson.AppendString(nil, Encode(signature)))
	all = all.With(string(server), ours.Bytes())
	return o.With("signatures", all.Bytes()), nil
}

// member returns a member that is an object; an empty one if there is none.
func member(o canonjson.Object, key string) (canonjson.Object, error) {
	raw, ok := o.Get(key)
	if !ok {
		return nil, nil
	}
	m, err := canonjson.ParseObject(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return m, nil
}

// VerifyJSON verifies the signature of one key over an object. The object may be in any form that has a canonical one.
func VerifyJSON(obj []byte, server id.Server, keyID string, public ed25519.PublicKey) error {
	canonical, err := canonjson.CanonicalLoose(obj)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	o, err := canonjson.ParseObject(canonical)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	return VerifyBytes(o, o.Without("signatures", "unsigned").Bytes(), server, keyID, public)
}

// VerifyBytes verifies that one of the object's signatures is over message.
func VerifyBytes(o canonjson.Object, message []byte, server id.Server, keyID string, public ed25519.PublicKey) error {
	all, err := member(o, "signatures")
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	of, err := member(all, string(server))
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	text, ok := of.String(keyID)
	if !ok {
		return fmt.Errorf("no signature of %s by %s: %w", server, keyID, ErrSignature)
	}
	signature, err := Decode(text)
	if err != nil || len(public) != ed25519.PublicKeySize || !ed25519.Verify(public, message, signature) {
		return fmt.Errorf("signature of %s by %s: %w", server, keyID, ErrSignature)
	}
	return nil
}

// SignatureKeyIDs returns the names of the keys by which a server signed the object.
func SignatureKeyIDs(obj []byte, server id.Server) []string {
	o, err := canonjson.ParseObject(obj)
	if err != nil {
		return nil
	}
	all, err := member(o, "signatures")
	if err != nil {
		return nil
	}
	of, err := member(all, string(server))
	if err != nil {
		return nil
	}
	ids := make([]string, 0, len(of))
	for _, m := range of {
		ids = append(ids, m.Key)
	}
	return ids
}
