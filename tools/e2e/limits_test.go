package e2e

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"hanse/tools/e2e/world"
	"hanse/tools/mxclient"
)

// TestRateLimits: a cluster with limits refuses what is too much with M_LIMIT_EXCEEDED and says when to come back, by
// user and by address, and who waits as long as it said is served.
func TestRateLimits(t *testing.T) {
	w, err := world.Start(t.Context(), world.Config{Servers: 1, AllInOne: true, Settings: map[string]string{
		"rate_limits.enabled":               "true",
		"rate_limits.limits.request":        "{per_second: 20, burst: 30}",
		"rate_limits.limits.login":          "{per_second: 5, burst: 5}",
		"rate_limits.limits.login_user":     "{per_second: 1, burst: 3}",
		"rate_limits.limits.register":       "{per_second: 100, burst: 100}",
		"client.registration.shared_secret": "secret",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx, server := t.Context(), w.Servers[0]
	alice, err := server.API.RegisterShared(ctx, "secret", "alice", password, false)
	if err != nil {
		t.Fatal(err)
	}
	bob, err := server.API.RegisterShared(ctx, "secret", "bob", password, false)
	if err != nil {
		t.Fatal(err)
	}
	refusal := exhaust(ctx, t, 200, func() error { _, _, err := alice.Whoami(ctx); return err })
	if _, _, err := bob.Whoami(ctx); err != nil {
		t.Errorf("another user: %v", err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(refusal.RetryAfter):
	}
	if _, _, err := alice.Whoami(ctx); err != nil {
		t.Errorf("after the wait of %s: %v", refusal.RetryAfter, err)
	}
	exhaust(ctx, t, 20, func() error {
		_, err := server.API.Login(ctx, "alice", "wrong", "")
		if mxclient.IsCode(err, "M_FORBIDDEN") {
			return nil
		}
		return err
	})
	for _, v := range w.Watch.Violations() {
		t.Errorf("against the specification: %s", v)
	}
}

// exhaust repeats a request until it is refused because there were too many.
func exhaust(ctx context.Context, t *testing.T, most int, ask func() error) *mxclient.Error {
	t.Helper()
	for range most {
		err := ask()
		var refusal *mxclient.Error
		switch {
		case err == nil:
		case errors.As(err, &refusal) && refusal.Status == http.StatusTooManyRequests && refusal.Code == "M_LIMIT_EXCEEDED":
			if refusal.RetryAfter <= 0 {
				t.Errorf("no time to come back: %v", err)
			}
			return refusal
		default:
			t.Fatal(err)
		}
		if ctx.Err() != nil {
			t.Fatal(ctx.Err())
		}
	}
	t.Fatalf("not refused within %d requests", most)
	return nil
}
