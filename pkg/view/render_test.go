package view

import "testing"

// Client-server API, "Room event format", unsigned.transaction_id: for the device that sent the event only.
func TestTransaction(t *testing.T) {
	for _, c := range []struct {
		f     Format
		cause string
		want  string
		ok    bool
	}{
		{Format{User: "@a:x", Device: "D"}, Cause("@a:x", "D", "t1"), "t1", true},
		{Format{User: "@a:x", Device: "D"}, Cause("@a:x", "E", "t1"), "", false},
		{Format{User: "@a:x", Device: "D"}, Cause("@b:x", "D", "t1"), "", false},
		{Format{User: "@a:x", Device: "D"}, Cause("@a:xy", "D", "t1"), "", false},
		{Format{User: "@a:x", Device: "DD"}, Cause("@a:x", "D", "t1"), "", false},
		{Format{User: "@a:x"}, Cause("@a:x", "", "t1"), "", false},
		{Format{User: "@a:x", Device: "D"}, "", "", false},
		{Format{User: "@a:x", Device: "D"}, "@a:x\x1fD", "", false},
	} {
		if got, ok := c.f.transaction(c.cause); ok != c.ok || ok && got != c.want {
			t.Errorf("%+v, %q: %q, %t", c.f, c.cause, got, ok)
		}
	}
}
