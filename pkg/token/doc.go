// Package token encodes the opaque tokens that clients hand back: where a /sync ended, and where a page of a room's
// timeline did. They are decoded strictly: what Encode did not write is an error, never a guess.
package token
