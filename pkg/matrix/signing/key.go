// Package signing signs and verifies JSON and federation requests with Ed25519 (appendices, section "Signing JSON";
// server-server API, section "Request Authentication").
package signing

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// Key is a signing key of a server.
type Key struct {
	// ID is the key's name with its algorithm: "ed25519:abc".
	ID      string
	Private ed25519.PrivateKey
}

// ErrSignature is returned for signatures that are missing or do not verify.
var ErrSignature = errors.New("signature does not verify")

// NewKey makes a key with a random name.
func NewKey() (*Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return &Key{ID: "ed25519:a_" + rand.Text()[:6], Private: private}, nil
}

// FromSeed makes a key of its 32-byte seed.
func FromSeed(keyID string, seed []byte) (*Key, error) {
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("seed of %d bytes, want %d", len(seed), ed25519.SeedSize)
	}
	if err := CheckKeyID(keyID); err != nil {
		return nil, err
	}
	return &Key{ID: keyID, Private: ed25519.NewKeyFromSeed(seed)}, nil
}

// Public returns the verify key.
func (k *Key) Public() ed25519.PublicKey { return k.Private.Public().(ed25519.PublicKey) }

// Sign signs bytes.
func (k *Key) Sign(message []byte) []byte { return ed25519.Sign(k.Private, message) }

// CheckKeyID accepts the names of Ed25519 keys: algorithm, colon, and a version of letters, digits and underscores.
func CheckKeyID(s string) error {
	version, ok := strings.CutPrefix(s, "ed25519:")
	if !ok || version == "" || len(s) > 255 {
		return fmt.Errorf("%.60q is not the id of an Ed25519 key", s)
	}
	for _, c := range []byte(version) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '+', c == '/', c == '-', c == '=':
		default:
			return fmt.Errorf("%.60q is not the id of an Ed25519 key", s)
		}
	}
	return nil
}

// ParseKeyFile reads the key file of Synapse and others: one key a line, algorithm, version, seed.
func ParseKeyFile(text string) ([]*Key, error) {
	var keys []*Key
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) != 3 || fields[0] != "ed25519" {
			return nil, errors.New("signing key file: want lines of algorithm, version and seed")
		}
		seed, err := Decode(fields[2])
		if err != nil {
			return nil, errors.New("signing key file: seed is not base64")
		}
		key, err := FromSeed("ed25519:"+fields[1], seed)
		if err != nil {
			return nil, fmt.Errorf("signing key file: %w", err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// FormatKey writes a key as a line of a key file.
func FormatKey(k *Key) string {
	_, version, _ := strings.Cut(k.ID, ":")
	return "ed25519 " + version + " " + Encode(k.Private.Seed()) + "\n"
}

// Encode is unpadded standard base64, as signatures and keys have it.
func Encode(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }

// Decode reads base64 with or without padding, standard or URL-safe, as the network sends it.
func Decode(s string) ([]byte, error) {
	s = strings.TrimRight(s, "=")
	if strings.ContainsAny(s, "-_") {
		return base64.RawURLEncoding.DecodeString(s)
	}
	return base64.RawStdEncoding.DecodeString(s)
}
