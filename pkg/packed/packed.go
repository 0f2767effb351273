// Package packed is the stored form of what is derived from rows: numbers as varints and texts in one string of bytes,
// plain or as a zstd frame.
//
// Packed bytes begin with a byte that says which it is. A Reader takes the plain form apart without trusting it: after
// the first number or text that is not there, all further ones are zero, and Done says so.
package packed

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// ErrCorrupt is wrapped by every error about bytes that cannot be read.
var ErrCorrupt = errors.New("stored bytes are corrupt")

// The first byte of packed bytes. It is part of the stored form.
const (
	plain      = 0
	compressed = 1
	// compressFrom is the length from which zstd pays for its frame.
	compressFrom = 200
)

// MaxBytes bounds what packed bytes may unpack to.
const MaxBytes = 512 << 20

var compressor = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderCRC(true))
})

var decompressor = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(MaxBytes))
})

// Begin returns the beginning of bytes to be packed, with room for as many.
func Begin(size int) []byte { return append(make([]byte, 0, 1+size), plain) }

// Pack packs what was appended to the result of Begin. It may return b itself.
func Pack(b []byte) []byte {
	if len(b) < compressFrom {
		return b
	}
	enc, err := compressor()
	if err != nil {
		return b // options are constant; plain is as right
	}
	if z := enc.EncodeAll(b[1:], []byte{compressed}); len(z) < len(b) {
		return z
	}
	return b
}

// Unpack is the inverse of Pack, without the byte of Begin.
func Unpack(b []byte) ([]byte, error) {
	if len(b) == 0 {
		return nil, fmt.Errorf("%w: no bytes", ErrCorrupt)
	}
	switch b[0] {
	case plain:
		return b[1:], nil
	case compressed:
		dec, err := decompressor()
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		if b, err = dec.DecodeAll(b[1:], nil); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return b, nil
	}
	return nil, fmt.Errorf("%w: format %d", ErrCorrupt, b[0])
}

// Reader takes numbers and bytes from a slice; after the first failure all is zero.
type Reader struct {
	b      []byte
	failed bool
}

// NewReader returns a reader of unpacked bytes.
func NewReader(b []byte) *Reader { return &Reader{b: b} }

// Left returns how many bytes are left.
func (r *Reader) Left() int { return len(r.b) }

// Done returns an error unless all was there, and nothing is left.
func (r *Reader) Done() error {
	if r.failed || len(r.b) > 0 {
		return fmt.Errorf("%w: length", ErrCorrupt)
	}
	return nil
}

func (r *Reader) fail() { r.b, r.failed = nil, true }

// Uvarint takes a number that was written by binary.AppendUvarint.
func (r *Reader) Uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// Varint takes a number that was written by binary.AppendVarint.
func (r *Reader) Varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// Take takes n bytes. They share memory with what is read.
func (r *Reader) Take(n uint64) []byte {
	if n > math.MaxInt32 || n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}
