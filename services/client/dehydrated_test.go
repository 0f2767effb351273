package client

import (
	"fmt"
	"testing"
)

const dehydrationPath = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"

// MSC3814, "Dehydrating a device", "Rehydrating a device", "Deleting a dehydrated device".
func TestDehydratedDevice(t *testing.T) {
	c := newCluster(t)
	anna, bert := c.register("anna"), c.register("bert")
	anna.do("GET", dehydrationPath, nil).fails(404, "M_NOT_FOUND")
	anna.do("DELETE", dehydrationPath, nil).fails(404, "M_NOT_FOUND")

	device := func(name string) map[string]any {
		keys := (&user{id: anna.id, device: name}).deviceKeys(newSigner(t))
		keys["dehydrated"] = true
		return map[string]any{
			"device_id": name, "device_data": map[string]any{"algorithm": "m.dehydration.v2", "device_pickle": "secret of " + name}, "device_keys": keys,
			"initial_device_display_name": "asleep",
			"one_time_keys":               map[string]any{"signed_curve25519:A": map[string]any{"key": "1"}},
			"fallback_keys":               map[string]any{"signed_curve25519:F": map[string]any{"key": "f", "fallback": true}},
		}
	}
	with := func(body map[string]any, member string, value any) map[string]any {
		if value == nil {
			delete(body, member)
		} else {
			body[member] = value
		}
		return body
	}
	for name, bad := range map[string]struct {
		body map[string]any
		code string
	}{
		"no id":            {with(device("D"), "device_id", nil), "M_MISSING_PARAM"},
		"no data":          {with(device("D"), "device_data", nil), "M_MISSING_PARAM"},
		"data is a string": {with(device("D"), "device_data", "x"), "M_BAD_JSON"},
		"no algorithm":     {with(device("D"), "device_data", map[string]any{}), "M_BAD_JSON"},
		"no keys":          {with(device("D"), "device_keys", nil), "M_MISSING_PARAM"},
		"keys of another":  {with(device("D"), "device_keys", device("E")["device_keys"]), "M_INVALID_PARAM"},
		"a used device":    {device(anna.device), "M_INVALID_PARAM"},
	} {
		if a := anna.do("PUT", dehydrationPath, bad.body); a.status != 400 || a.str("errcode") != bad.code {
			t.Errorf("%s: %d %s, want %s", name, a.status, a.raw, bad.code)
		}
	}
	if a := anna.do("PUT", dehydrationPath, device("D")).ok(); a.str("device_id") != "D" {
		t.Errorf("put: %s", a.raw)
	}
	if a := anna.do("GET", dehydrationPath, nil).ok(); a.str("device_id") != "D" || a.str("device_data", "device_pickle") != "secret of D" {
		t.Errorf("get: %s", a.raw)
	}
	bert.do("GET", dehydrationPath, nil).fails(404, "M_NOT_FOUND")
	query := map[string]any{"device_keys": map[string]any{string(anna.id): []string{}}}
	if a := bert.do("POST", v3+"/keys/query", query).ok(); a.get("device_keys", string(anna.id), "D", "dehydrated") != true {
		t.Errorf("its keys: %s", a.raw)
	}
	claim := map[string]any{"one_time_keys": map[string]any{string(anna.id): map[string]string{"D": "signed_curve25519"}}}
	if a := bert.do("POST", v3+"/keys/claim", claim).ok(); a.get("one_time_keys", string(anna.id), "D", "signed_curve25519:A") == nil {
		t.Errorf("its one-time key: %s", a.raw)
	}

	// Its messages wait until it is deleted, however often they are read. Clients that POST read until there are no more.
	const sent = 250
	for i := range sent {
		bert.do("PUT", fmt.Sprint(v3, "/sendToDevice/m.test/", i), map[string]any{"messages": map[string]any{string(anna.id): map[string]any{"*": map[string]int{"n": i}}}}).ok()
	}
	for range 2 {
		got, next := 0, ""
		for {
			a := anna.do("POST", dehydrationPath+"/D/events", map[string]string{"next_batch": next}).ok()
			events := a.get("events").([]any)
			if len(events) == 0 {
				break
			}
			for _, e := range events {
				if e := e.(map[string]any); e["sender"] != string(bert.id) || e["type"] != "m.test" || e["content"].(map[string]any)["n"] != float64(got) {
					t.Fatalf("message %d: %v", got, e)
				}
				got++
			}
			next = a.str("next_batch")
		}
		if got != sent {
			t.Errorf("POST: %d messages", got)
		}
	}
	got, from := 0, ""
	for more := true; more; {
		a := anna.do("GET", dehydrationPath+"/D/events?from="+from, nil).ok()
		got += len(a.get("events").([]any))
		from, more = a.str("next_batch"), a.get("next_batch") != nil
	}
	if got != sent {
		t.Errorf("GET: %d messages", got)
	}
	anna.do("GET", dehydrationPath+"/"+anna.device+"/events", nil).fails(403, "M_FORBIDDEN")
	anna.do("GET", dehydrationPath+"/D/events?from=-1", nil).fails(400, "M_INVALID_PARAM")
	anna.do("GET", dehydrationPath+"/D/events?from=s5", nil).fails(400, "M_INVALID_PARAM")
	bert.do("GET", dehydrationPath+"/D/events", nil).fails(404, "M_NOT_FOUND")

	// A new one takes its place, and its keys and messages go; also under the same id.
	for _, name := range []string{"E", "E"} {
		anna.do("PUT", dehydrationPath, device(name)).ok()
		anna.do("GET", v3+"/devices/D", nil).fails(404, "M_NOT_FOUND")
		if a := anna.do("GET", dehydrationPath+"/E/events", nil).ok(); len(a.get("events").([]any)) != 0 || a.get("next_batch") != nil {
			t.Errorf("messages of a new device: %s", a.raw)
		}
		if a := bert.do("POST", v3+"/keys/query", query).ok(); a.get("device_keys", string(anna.id), "D") != nil || a.get("device_keys", string(anna.id), "E") == nil {
			t.Errorf("keys: %s", a.raw)
		}
	}
	if a := anna.do("DELETE", dehydrationPath, nil).ok(); a.str("device_id") != "E" {
		t.Errorf("delete: %s", a.raw)
	}
	anna.do("GET", v3+"/devices/E", nil).fails(404, "M_NOT_FOUND")

	// Who is logged out everywhere has none either.
	anna.do("PUT", dehydrationPath, device("F")).ok()
	anna.do("POST", v3+"/logout/all", nil).ok()
	c.login(anna.id, nil).do("GET", dehydrationPath, nil).fails(404, "M_NOT_FOUND")
}
