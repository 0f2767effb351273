package mac

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The form of a signed value: tag, end (Unix milliseconds, big endian), what it says.
const (
	tagSize  = sha256.Size
	headSize = tagSize + 8
)

// Why a value is not believed.
var (
	// ErrForged: nobody who knows the key has signed it for this name.
	ErrForged = errors.New("value is not signed by this cluster")
	// ErrEnded: it was good until some time ago.
	ErrEnded = errors.New("signed value has ended")
)

// Key signs values of one purpose. It is safe for concurrent use.
type Key struct {
	key     []byte
	refused prometheus.Counter
}

// Key derives the key of a purpose.
func (s *Secret) Key(purpose string) *Key {
	key, err := hkdf.Key(sha256.New, s.secret, []byte(s.cluster), "hanse "+purpose, sha256.Size)
	if err != nil {
		panic(err) // only for a key longer than HKDF can make
	}
	return &Key{key: key, refused: s.refused.WithLabelValues(purpose)}
}

// Format hides the key from all of fmt.
func (*Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// Sign returns a value as it is kept under a name until some time. It keeps nothing of the value.
func (k *Key) Sign(name string, value []byte, until time.Time) []byte {
	signed := make([]byte, tagSize, headSize+len(value))
	signed = binary.BigEndian.AppendUint64(signed, uint64(until.UnixMilli()))
	signed = append(signed, value...)
	copy(signed, k.tag(name, signed[tagSize:]))
	return signed
}

// Open returns what was signed, if it was signed for this name and is still good. It shares memory with its argument.
func (k *Key) Open(name string, signed []byte, now time.Time) ([]byte, error) {
	if len(signed) < headSize || !hmac.Equal(signed[:tagSize], k.tag(name, signed[tagSize:])) {
		k.refused.Inc()
		return nil, ErrForged
	}
	until := binary.BigEndian.Uint64(signed[tagSize:])
	if until > math.MaxInt64 || now.UnixMilli() > int64(until) {
		return nil, ErrEnded
	}
	return signed[headSize:], nil
}

// Digest returns what a value can be recognised by and not be guessed from. No signature of this key is like it.
func (k *Key) Digest(value []byte) []byte { return k.tag("\x00digest", value) }

// tag is of the name, with its length before it, and the rest.
func (k *Key) tag(name string, rest []byte) []byte {
	h := hmac.New(sha256.New, k.key)
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(name))))
	h.Write([]byte(name))
	h.Write(rest)
	return h.Sum(nil)
}
