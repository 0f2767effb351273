package auth

import (
	"crypto/ed25519"
	"encoding/base64"
	"slices"
	"strings"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
)

// maxThirdPartyChecks bounds the signature verifications that one event can
// cause; an honest one needs one or two.
const maxThirdPartyChecks = 64

// thirdPartyToken is content.third_party_invite.signed.token.
func thirdPartyToken(content []byte) (string, bool) {
	c, _ := object(content)
	return member(member(c, "third_party_invite"), "signed").String("token")
}

// checkInviteByThirdParty is the rule for invites with a third_party_invite.
func (c *check) checkInviteByThirdParty(target id.User, current string) *Error {
	if current == membershipBan {
		return c.reject(c.n.invite(1, 1), "%s is banned", target)
	}
	content, _ := object(c.ev.Content)
	rawSigned, ok := member(content, "third_party_invite").Get("signed")
	if !ok {
		return c.reject(c.n.invite(1, 2), "third_party_invite has no signed")
	}
	signed, _ := object(rawSigned)
	mxid, okMXID := signed.String("mxid")
	token, okToken := signed.String("token")
	if !okMXID || !okToken {
		return c.reject(c.n.invite(1, 3), "signed lacks mxid or token")
	}
	if mxid != string(target) {
		return c.reject(c.n.invite(1, 4), "signed is for %q, not for %s", mxid, target)
	}
	issued := c.st.StateEvent(typeThirdPartyInvite, token)
	if issued == nil {
		return c.reject(c.n.invite(1, 5), "no m.room.third_party_invite with this token")
	}
	if issued.Sender != c.ev.Sender {
		return c.reject(c.n.invite(1, 6), "m.room.third_party_invite was sent by %s", issued.Sender)
	}
	if !signedByAny(rawSigned, publicKeys(issued.Content)) {
		return c.reject(c.n.invite(1, 8), "no signature matches a key of m.room.third_party_invite")
	}
	return nil
}

// publicKeys are those of an m.room.third_party_invite event: public_key, and
// public_key of each of public_keys.
func publicKeys(content []byte) []ed25519.PublicKey {
	c, _ := object(content)
	var keys []ed25519.PublicKey
	add := func(o canonjson.Object) {
		s, ok := o.String("public_key")
		if !ok {
			return
		}
		if k, ok := decodeKey(s); ok && !slices.ContainsFunc(keys, func(o ed25519.PublicKey) bool { return o.Equal(k) }) {
			keys = append(keys, k)
		}
	}
	add(c)
	raw, _ := c.Get("public_keys")
	more, _ := list(raw)
	for _, raw := range more {
		entry, _ := object(raw)
		add(entry)
		if len(keys) >= maxThirdPartyChecks {
			break
		}
	}
	return keys
}

// decodeKey accepts unpadded base64 as the specification asks, and the padded
// and URL-safe forms that identity servers have used.
func decodeKey(s string) (ed25519.PublicKey, bool) {
	s = strings.TrimRight(s, "=")
	enc := base64.RawStdEncoding
	if strings.ContainsAny(s, "-_") {
		enc = base64.RawURLEncoding
	}
	b, err := enc.DecodeString(s)
	if err != nil || len(b) != ed25519.PublicKeySize {
		return nil, false
	}
	return ed25519.PublicKey(b), true
}

// signedByAny tells whether any signature in the signed object was made with
// any of the keys. Events are canonical JSON, in order, so that the bound cuts
// off the same signatures everywhere.
func signedByAny(rawSigned []byte, keys []ed25519.PublicKey) bool {
	signed, _ := object(rawSigned)
	servers := member(signed, "signatures")
	left := maxThirdPartyChecks
	for _, server := range servers {
		signatures, _ := object(server.Raw)
		for _, signature := range signatures {
			if !strings.HasPrefix(signature.Key, "ed25519:") {
				continue
			}
			for _, key := range keys {
				if left--; left < 0 {
					return false
				}
				if signing.VerifyJSON(rawSigned, id.Server(server.Key), signature.Key, key) == nil {
					return true
				}
			}
		}
	}
	return false
}
