package edge

import (
	"hash/fnv"
	"net/http"
	"slices"
	"strings"
)

// Roles that requests go to.
const (
	RoleClient = "client"
	RoleSync   = "sync"
	RoleFedin  = "fedin"
	RoleMedia  = "media"
)

// roleOf returns the role that serves a path.
func roleOf(path string) string {
	switch {
	case strings.HasPrefix(path, "/_matrix/federation/"), strings.HasPrefix(path, "/_matrix/key/"):
		return RoleFedin
	case strings.HasPrefix(path, "/_matrix/media/"), strings.HasPrefix(path, "/_matrix/client/v1/media/"):
		return RoleMedia
	case isMediaAdmin(path):
		return RoleMedia
	case isSync(path):
		return RoleSync
	default:
		return RoleClient
	}
}

// mediaAdmin is what administrators do with media, below /_synapse/admin/v1; a star is one part of the path, or more at its end.
var mediaAdmin = []string{"media/*", "purge_media_cache", "users/*/media", "user/*/media/quarantine", "room/*/media", "room/*/media/quarantine",
	"quarantine_media/*", "statistics/users/media"}

// isMediaAdmin matches what administrators do with media.
func isMediaAdmin(path string) bool {
	rest, ok := strings.CutPrefix(path, "/_synapse/admin/v1/")
	return ok && slices.ContainsFunc(mediaAdmin, func(pattern string) bool {
		before, after, star := strings.Cut(pattern, "*")
		return rest == pattern || star && len(rest) > len(before)+len(after) && strings.HasPrefix(rest, before) && strings.HasSuffix(rest, after)
	})
}

// isSync matches /_matrix/client/<version>/sync, with versions such as v3 and r0.
func isSync(path string) bool {
	rest, ok := strings.CutPrefix(path, "/_matrix/client/")
	if !ok {
		return false
	}
	_, endpoint, ok := strings.Cut(rest, "/")
	return ok && endpoint == "sync"
}

// stickyKey returns what keeps requests together: the access token of a sync; "" for requests that go anywhere.
func stickyKey(r *http.Request) string {
	if roleOf(r.URL.Path) != RoleSync {
		return ""
	}
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return token
	}
	return r.URL.Query().Get("access_token")
}

// weight orders the replicas for a key: the highest one is the key's own (rendezvous hashing).
func weight(key, replica string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(replica)) // never fails
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(key))
	x := h.Sum64() // FNV's high bits are weak for keys that differ at the end: mix
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return x
}
