package event

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
)

// checkShape checks the fields of an event against the event format of the room version. If lenient is set, the type and
// the state key are counted in code points, as Synapse did for long.
func checkShape(o canonjson.Object, rules *roomversion.Rules, lenient bool) error {
	typ, err := text(o, "type", true, MaxFieldBytes, lenient)
	if err != nil {
		return err
	}
	sender, err := text(o, "sender", true, MaxFieldBytes, false)
	if err != nil {
		return err
	}
	if _, err := id.ParseUser(sender); err != nil {
		return fmt.Errorf("%w: sender: %w", ErrInvalid, err)
	}
	stateKey, err := text(o, "state_key", false, rules.MaxStateKey(), lenient)
	if err != nil {
		return err
	}
	_, isState := o.Get("state_key")
	if err := checkRoomID(o, rules, typ == "m.room.create" && isState && stateKey == ""); err != nil {
		return err
	}
	if rules.EventID == 1 {
		eventID, err := text(o, "event_id", true, MaxFieldBytes, false)
		if err != nil {
			return err
		}
		e, err := id.ParseEvent(eventID)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if e.Server() == "" {
			return fmt.Errorf("%w: event_id %q names no server, which would have to sign", ErrInvalid, eventID)
		}
	}
	// Before room version 6 the depth goes up to 2^63-1, and rooms exist that are there.
	for _, key := range []string{"depth", "origin_server_ts"} {
		if n, ok := o.Int(key); !ok || n < 0 && key == "depth" || n > canonjson.MaxInt && rules.StrictCanonicalJSON {
			return fmt.Errorf("%w: %s", ErrInvalid, key)
		}
	}
	for _, key := range []string{"content", "hashes", "signatures"} {
		if raw, ok := o.Get(key); !ok || raw[0] != '{' {
			return fmt.Errorf("%w: %s is not an object", ErrInvalid, key)
		}
	}
	if err := checkReferences(o, "prev_events", MaxPrevEvents, rules); err != nil {
		return err
	}
	return checkReferences(o, "auth_events", MaxAuthEvents, rules)
}

func checkRoomID(o canonjson.Object, rules *roomversion.Rules, create bool) error {
	if rules.RoomIDIsCreateHash && create {
		if _, ok := o.Get("room_id"); ok {
			return fmt.Errorf("%w: a create event of this room version has no room_id", ErrInvalid)
		}
		return nil
	}
	room, err := text(o, "room_id", true, MaxFieldBytes, false)
	if err != nil {
		return err
	}
	roomID, err := id.ParseRoom(room)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if hash := roomID.Server() == ""; hash != rules.RoomIDIsCreateHash {
		return fmt.Errorf("%w: %q is not a room id of room version %s", ErrInvalid, room, rules.Version)
	}
	return nil
}

func checkReferences(o canonjson.Object, key string, limit int, rules *roomversion.Rules) error {
	raw, ok := o.Get(key)
	if !ok || raw[0] != '[' {
		return fmt.Errorf("%w: %s is not a list", ErrInvalid, key)
	}
	ids, err := references(raw, rules)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrInvalid, key, err)
	}
	if len(ids) > limit {
		return fmt.Errorf("%w: %d %s, at most %d", ErrInvalid, len(ids), key, limit)
	}
	for _, e := range ids {
		if _, err := id.ParseEvent(string(e)); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrInvalid, key, err)
		}
	}
	return nil
}

// text reads a field of at most so many bytes, or code points. It has no NUL: PostgreSQL cannot hold that.
func text(o canonjson.Object, key string, required bool, most int, codePoints bool) (string, error) {
	raw, ok := o.Get(key)
	if !ok {
		if required {
			return "", fmt.Errorf("%w: %s is missing", ErrInvalid, key)
		}
		return "", nil
	}
	s, ok := canonjson.String(raw)
	if !ok {
		return "", fmt.Errorf("%w: %s is not a string", ErrInvalid, key)
	}
	if strings.IndexByte(s, 0) >= 0 {
		return "", fmt.Errorf("%w: NUL in %s", ErrInvalid, key)
	}
	if len(s) > most && !(codePoints && utf8.RuneCountInString(s) <= most) {
		return "", fmt.Errorf("%s: %w", key, ErrTooLarge)
	}
	return s, nil
}

// hashMatches compares the content hash (server-server API, section "Calculating the content hash for an event").
func hashMatches(o canonjson.Object) bool {
	hashes, ok := o.Get("hashes")
	if !ok {
		return false
	}
	claimed, err := decodeHash(gjson.GetBytes(hashes, "sha256").Str)
	if err != nil {
		return false
	}
	sum := contentHash(o)
	return bytes.Equal(claimed, sum[:])
}
