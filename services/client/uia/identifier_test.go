package uia

import (
	"testing"

	"hanse/pkg/matrix/id"
)

// Client-server API, "Matrix User ID" (identifier types): what people type for their user id.
func TestTypedUser(t *testing.T) {
	const server = "localhost:8448"
	for text, want := range map[string]id.User{
		"alice":                 "@alice:localhost:8448",
		" alice ":               "@alice:localhost:8448",
		"@alice:localhost:8448": "@alice:localhost:8448",
		"@alice:localhost":      "@alice:localhost:8448",
		"alice:localhost":       "@alice:localhost:8448",
		"@Alice:LOCALHOST":      "@Alice:localhost:8448", // the account is looked for in lower case too
		"@alice:localhost:8449": "@alice:localhost:8449",
		"@alice:else.example":   "@alice:else.example",
	} {
		if got, err := typedUser(text, server); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"@", "@alice", ":"} {
		if got, err := typedUser(text, server); err == nil {
			t.Errorf("%q is %q", text, got)
		}
	}
}
