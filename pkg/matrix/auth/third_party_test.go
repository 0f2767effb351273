package auth_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"testing"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/signing"
)

var (
	identityKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	otherKey    = ed25519.NewKeyFromSeed([]byte("another seed for an identity key"))
)

func public(k ed25519.PrivateKey) string {
	return base64.RawStdEncoding.EncodeToString(k.Public().(ed25519.PublicKey))
}

// thirdParty is @bob's invite of @carol with a signed token. edit may change
// the state and the content of the invite before.
func thirdParty(edit func(r *room, issued, invite content)) func(*room) *event.PDU {
	return func(r *room) *event.PDU {
		raw, err := signing.SignJSON([]byte(`{"mxid":"@carol:c","token":"t"}`), "id.example", &signing.Key{ID: "ed25519:0", Private: identityKey})
		if err != nil {
			r.t.Fatal(err)
		}
		var signed content
		if err := json.Unmarshal(raw, &signed); err != nil {
			r.t.Fatal(err)
		}
		issued := content{"public_key": public(identityKey)}
		invite := content{"display_name": "carol", "signed": signed}
		if edit != nil {
			edit(r, issued, invite)
		}
		if len(issued) > 0 {
			r.put(bob, "m.room.third_party_invite", "t", issued)
		}
		return r.stateEvent(bob, "m.room.member", string(carol), content{"membership": "invite", "third_party_invite": invite})
	}
}

// "If content has a third_party_invite property".
func TestThirdPartyInvite(t *testing.T) {
	rule := func(step string) string {
		return "5.3.1." + step + " 5.3.1." + step + " 4.3.1." + step + " 4.3.1." + step + " 4.4.1." + step + " 4.4.1." + step + " 5.4.1." + step
	}
	signed := func(invite content) content { return invite["signed"].(content) }
	runRules(t, []ruleTest{
		{"valid", thirdParty(nil), "ok"},
		{"by a public key of the list", thirdParty(func(_ *room, issued, _ content) {
			issued["public_key"] = public(otherKey)
			issued["public_keys"] = []content{{"public_key": 1}, {"public_key": public(identityKey)}}
		}), "ok"},
		{"sender has left and may not invite", thirdParty(func(r *room, _, _ content) {
			r.powerLevels(content{"invite": 100})
			r.member(bob, "leave")
		}), "ok"},
		{"banned", thirdParty(func(r *room, _, _ content) { r.member(carol, "ban") }), rule("1")},
		{"no signed", thirdParty(func(_ *room, _, invite content) { delete(invite, "signed") }), rule("2")},
		{"no mxid", thirdParty(func(_ *room, _, invite content) { delete(signed(invite), "mxid") }), rule("3")},
		{"no token", thirdParty(func(_ *room, _, invite content) { delete(signed(invite), "token") }), rule("3")},
		{"signed is no object", thirdParty(func(_ *room, _, invite content) { invite["signed"] = 1 }), rule("3")},
		{"for another", thirdParty(func(_ *room, _, invite content) { signed(invite)["mxid"] = "@x:y" }), rule("4")},
		{"unknown token", thirdParty(func(_ *room, issued, _ content) { clear(issued) }), rule("5")},
		{"issued by another", thirdParty(func(r *room, issued, _ content) {
			r.put(alice, "m.room.third_party_invite", "t", content{"public_key": public(identityKey)})
			clear(issued)
		}), rule("6")},
		{"other key", thirdParty(func(_ *room, issued, _ content) { issued["public_key"] = public(otherKey) }), rule("8")},
		{"changed after signing", thirdParty(func(_ *room, _, invite content) { signed(invite)["sender"] = "x" }), rule("8")},
		{"no signatures", thirdParty(func(_ *room, _, invite content) { delete(signed(invite), "signatures") }), rule("8")},
		{"key is no key", thirdParty(func(_ *room, issued, _ content) { issued["public_key"] = "!" }), rule("8")},
	})
}
