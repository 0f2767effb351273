package auth

import (
	"encoding/json"

	"hanse/pkg/matrix/canonjson"
)

// object splits a JSON object into its members; false if raw is not one.
func object(raw []byte) (canonjson.Object, bool) {
	o, err := canonjson.ParseObject(raw)
	return o, err == nil
}

// member reads a member that is an object, an empty one if it is not.
func member(o canonjson.Object, key string) canonjson.Object {
	raw, _ := o.Get(key)
	m, _ := object(raw)
	return m
}

// text reads a JSON string; false if raw is anything else.
func text(raw []byte) (string, bool) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	return canonjson.String(raw)
}

// list splits a JSON array into its elements; false if raw is not one.
func list(raw []byte) ([]json.RawMessage, bool) {
	var l []json.RawMessage
	if err := json.Unmarshal(raw, &l); err != nil || l == nil {
		return nil, false
	}
	return l, true
}
