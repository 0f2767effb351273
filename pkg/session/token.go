package session

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"

	"hanse/pkg/userdb"
)

// The kinds of tokens, as their prefixes: so that one is not taken for the other, and secret scanners know them.
const (
	AccessToken  = "hat_"
	RefreshToken = "hrt_"
)

// secretLen is the number of random bytes of a token.
const secretLen = 24

var encoding = base64.RawURLEncoding.Strict()

// NewToken makes a token of a user in a partition.
func NewToken(kind string, part uint32) (token string, hash userdb.TokenHash) {
	b := binary.AppendUvarint(make([]byte, 0, binary.MaxVarintLen32+secretLen), uint64(part))
	b = append(b, make([]byte, secretLen)...)
	_, _ = rand.Read(b[len(b)-secretLen:]) // never fails: crypto/rand ends the program instead
	token = kind + encoding.EncodeToString(b)
	return token, sha256.Sum256([]byte(token))
}

// ParseToken returns the partition that a token names and the hash under which it is stored; false if this is no token
// of that kind.
func ParseToken(kind, token string) (part uint32, hash userdb.TokenHash, ok bool) {
	if len(token) > 64 || len(token) <= len(kind) || token[:len(kind)] != kind {
		return 0, hash, false
	}
	b, err := encoding.DecodeString(token[len(kind):])
	if err != nil {
		return 0, hash, false
	}
	v, n := binary.Uvarint(b)
	if n <= 0 || v > 1<<31-1 || len(b) != n+secretLen {
		return 0, hash, false
	}
	return uint32(v), sha256.Sum256([]byte(token)), true
}
