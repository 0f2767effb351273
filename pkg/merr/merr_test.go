package merr

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"testing"
)

func TestWriteHTTP(t *testing.T) {
	cause := errors.New("connection refused to 10.0.0.1")
	cases := []struct {
		name   string
		err    error
		status int
		body   map[string]any
		retry  string
	}{
		{"plain", fmt.Errorf("append event: %w", Forbidden("no")), 403, map[string]any{"errcode": "M_FORBIDDEN", "error": "no"}, ""},
		{"rate limit", LimitExceeded(1500), 429, map[string]any{"errcode": "M_LIMIT_EXCEEDED", "error": "Too many requests", "retry_after_ms": 1500.0}, "2"},
		{"extra", IncompatibleRoomVersion("9"), 400, map[string]any{"errcode": "M_INCOMPATIBLE_ROOM_VERSION",
			"error": "Your homeserver does not support the features required to join this room", "room_version": "9"}, ""},
		{"soft logout", UnknownToken(true), 401, map[string]any{"errcode": "M_UNKNOWN_TOKEN", "error": "Unknown or expired access token", "soft_logout": true}, ""},
		{"first answer of user-interactive auth", UIA("", "", map[string]any{"session": "s"}), 401, map[string]any{"session": "s"}, ""},
		{"internal texts stay inside", cause, 500, map[string]any{"errcode": "M_UNKNOWN", "error": "Internal server error"}, ""},
		{"deadline", fmt.Errorf("x: %w", context.DeadlineExceeded), 504, map[string]any{"errcode": "M_UNKNOWN", "error": "The request took too long"}, ""},
		{"cause is not sent", NotFound("gone").WithCause(cause), 404, map[string]any{"errcode": "M_NOT_FOUND", "error": "gone"}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			WriteHTTP(w, c.err)
			var got map[string]any
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Fatalf("body %q: %v", w.Body, err)
			}
			if w.Code != c.status || fmt.Sprint(got) != fmt.Sprint(c.body) || w.Header().Get("Retry-After") != c.retry {
				t.Fatalf("got %d %v retry %q, want %d %v %q", w.Code, got, w.Header().Get("Retry-After"), c.status, c.body, c.retry)
			}
		})
	}
}

func TestCopiesDoNotShare(t *testing.T) {
	a := UnknownToken(true)
	b := a.With("x", 1)
	if _, ok := a.Extra["x"]; ok || b.Extra["soft_logout"] != true {
		t.Fatalf("a %v b %v", a.Extra, b.Extra)
	}
	if !errors.Is(fmt.Errorf("w: %w", b), UnknownToken(false)) || HasCode(b, CodeNotFound) {
		t.Fatal("matching by errcode")
	}
}
