package event

import (
	"fmt"
	"slices"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/roomversion"
)

// Members of the event that survive a redaction.
var (
	keptKeys = []string{
		"auth_events", "content", "depth", "event_id", "hashes", "origin_server_ts", "prev_events", "room_id", "sender",
		"signatures", "state_key", "type",
	}
	keptKeysBefore11 = append(slices.Clone(keptKeys), "membership", "origin", "prev_state")
)

// Redact returns the redacted form of a canonical event (room version pages, section "Redactions"). unsigned is gone
// from it as well.
func Redact(raw []byte, rules *roomversion.Rules) ([]byte, error) {
	o, err := canonjson.ParseObject(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return redact(o, rules)
}

// Redacted returns the redacted form of the event: the same event to everybody but for its content.
func (p *PDU) Redacted() (*PDU, error) {
	b, err := Redact(p.JSON, p.Rules)
	if err != nil {
		return nil, err
	}
	return ParseTrusted(b, p.ID, p.Rules)
}

func redact(o canonjson.Object, rules *roomversion.Rules) ([]byte, error) {
	kept, err := redactObject(o, rules)
	if err != nil {
		return nil, err
	}
	return kept.Bytes(), nil
}

func redactObject(o canonjson.Object, rules *roomversion.Rules) (canonjson.Object, error) {
	keys := keptKeys
	if rules.Redaction < 11 {
		keys = keptKeysBefore11
	}
	typ, _ := o.String("type")
	kept := o.Only(keys...)
	raw, ok := kept.Get("content")
	if !ok {
		return kept, nil
	}
	content, err := redactContent(typ, raw, rules)
	if err != nil {
		return nil, err
	}
	return kept.With("content", content), nil
}

func redactContent(typ string, raw []byte, rules *roomversion.Rules) ([]byte, error) {
	v := rules.Redaction
	if typ == "m.room.create" && v >= 11 {
		return raw, nil
	}
	keys := keptContent(typ, v)
	if keys == nil {
		return []byte("{}"), nil
	}
	content, err := canonjson.ParseObject(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: content: %w", ErrInvalid, err)
	}
	kept := content.Only(keys...)
	if typ == "m.room.member" && v >= 11 {
		// Of third_party_invite only what was signed survives; the object itself does in any case.
		if invite, ok := content.Get("third_party_invite"); ok && invite[0] == '{' {
			o, err := canonjson.ParseObject(invite)
			if err != nil {
				return nil, fmt.Errorf("%w: content: %w", ErrInvalid, err)
			}
			kept = kept.With("third_party_invite", o.Only("signed").Bytes())
		}
	}
	return kept.Bytes(), nil
}

func keptContent(typ string, v int) []string {
	switch typ {
	case "m.room.member":
		if v >= 9 {
			return []string{"membership", "join_authorised_via_users_server"}
		}
		return []string{"membership"}
	case "m.room.create":
		return []string{"creator"}
	case "m.room.join_rules":
		if v >= 8 {
			return []string{"join_rule", "allow"}
		}
		return []string{"join_rule"}
	case "m.room.power_levels":
		keys := []string{"ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default"}
		if v >= 11 {
			keys = append(keys, "invite")
		}
		return keys
	case "m.room.aliases":
		if v < 6 {
			return []string{"aliases"}
		}
	case "m.room.history_visibility":
		return []string{"history_visibility"}
	case "m.room.redaction":
		if v >= 11 {
			return []string{"redacts"}
		}
	}
	return nil
}
