package keys_test

import (
	"fmt"
	"testing"

	"hanse/services/client/clienttest"
)

const dehydrationPath = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"

// MSC3814, "Dehydrating a device", "Rehydrating a device", "Deleting a dehydrated device".
func TestDehydratedDevice(t *testing.T) {
	c := clienttest.New(t)
	anna, bert := c.Register("anna"), c.Register("bert")
	anna.Do("GET", dehydrationPath, nil).Fails(404, "M_NOT_FOUND")
	anna.Do("DELETE", dehydrationPath, nil).Fails(404, "M_NOT_FOUND")

	device := func(name string) map[string]any {
		keys := keysOf(&clienttest.User{ID: anna.ID, Device: name}, newSigner(t))
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
		"a used device":    {device(anna.Device), "M_INVALID_PARAM"},
	} {
		if a := anna.Do("PUT", dehydrationPath, bad.body); a.Status != 400 || a.Str("errcode") != bad.code {
			t.Errorf("%s: %d %s, want %s", name, a.Status, a.Raw, bad.code)
		}
	}
	if a := anna.Do("PUT", dehydrationPath, device("D")).OK(); a.Str("device_id") != "D" {
		t.Errorf("put: %s", a.Raw)
	}
	if a := anna.Do("GET", dehydrationPath, nil).OK(); a.Str("device_id") != "D" || a.Str("device_data", "device_pickle") != "secret of D" {
		t.Errorf("get: %s", a.Raw)
	}
	bert.Do("GET", dehydrationPath, nil).Fails(404, "M_NOT_FOUND")
	query := map[string]any{"device_keys": map[string]any{string(anna.ID): []string{}}}
	if a := bert.Do("POST", v3+"/keys/query", query).OK(); a.Get("device_keys", string(anna.ID), "D", "dehydrated") != true {
		t.Errorf("its keys: %s", a.Raw)
	}
	claim := map[string]any{"one_time_keys": map[string]any{string(anna.ID): map[string]string{"D": "signed_curve25519"}}}
	if a := bert.Do("POST", v3+"/keys/claim", claim).OK(); a.Get("one_time_keys", string(anna.ID), "D", "signed_curve25519:A") == nil {
		t.Errorf("its one-time key: %s", a.Raw)
	}

	// Its messages wait until it is deleted, however often they are read. Clients that POST read until there are no more.
	const sent = 250
	for i := range sent {
		bert.Do("PUT", fmt.Sprint(v3, "/sendToDevice/m.test/", i), map[string]any{"messages": map[string]any{string(anna.ID): map[string]any{"*": map[string]int{"n": i}}}}).OK()
	}
	for range 2 {
		got, next := 0, ""
		for {
			a := anna.Do("POST", dehydrationPath+"/D/events", map[string]string{"next_batch": next}).OK()
			events := a.Get("events").([]any)
			if len(events) == 0 {
				break
			}
			for _, e := range events {
				if e := e.(map[string]any); e["sender"] != string(bert.ID) || e["type"] != "m.test" || e["content"].(map[string]any)["n"] != float64(got) {
					t.Fatalf("message %d: %v", got, e)
				}
				got++
			}
			next = a.Str("next_batch")
		}
		if got != sent {
			t.Errorf("POST: %d messages", got)
		}
	}
	got, from := 0, ""
	for more := true; more; {
		a := anna.Do("GET", dehydrationPath+"/D/events?from="+from, nil).OK()
		got += len(a.Get("events").([]any))
		from, more = a.Str("next_batch"), a.Get("next_batch") != nil
	}
	if got != sent {
		t.Errorf("GET: %d messages", got)
	}
	anna.Do("GET", dehydrationPath+"/"+anna.Device+"/events", nil).Fails(403, "M_FORBIDDEN")
	anna.Do("GET", dehydrationPath+"/D/events?from=-1", nil).Fails(400, "M_INVALID_PARAM")
	anna.Do("GET", dehydrationPath+"/D/events?from=s5", nil).Fails(400, "M_INVALID_PARAM")
	bert.Do("GET", dehydrationPath+"/D/events", nil).Fails(404, "M_NOT_FOUND")

	// A new one takes its place, and its keys and messages go; also under the same id.
	for _, name := range []string{"E", "E"} {
		anna.Do("PUT", dehydrationPath, device(name)).OK()
		anna.Do("GET", v3+"/devices/D", nil).Fails(404, "M_NOT_FOUND")
		if a := anna.Do("GET", dehydrationPath+"/E/events", nil).OK(); len(a.Get("events").([]any)) != 0 || a.Get("next_batch") != nil {
			t.Errorf("messages of a new device: %s", a.Raw)
		}
		if a := bert.Do("POST", v3+"/keys/query", query).OK(); a.Get("device_keys", string(anna.ID), "D") != nil || a.Get("device_keys", string(anna.ID), "E") == nil {
			t.Errorf("keys: %s", a.Raw)
		}
	}
	if a := anna.Do("DELETE", dehydrationPath, nil).OK(); a.Str("device_id") != "E" {
		t.Errorf("delete: %s", a.Raw)
	}
	anna.Do("GET", v3+"/devices/E", nil).Fails(404, "M_NOT_FOUND")

	// Who is logged out everywhere has none either.
	anna.Do("PUT", dehydrationPath, device("F")).OK()
	anna.Do("POST", v3+"/logout/all", nil).OK()
	c.Login(anna.ID, nil).Do("GET", dehydrationPath, nil).Fails(404, "M_NOT_FOUND")
}
