package packed_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"hanse/pkg/packed"
)

// What is packed comes back, whether it was worth compressing or not.
func TestPack(t *testing.T) {
	for _, size := range []int{0, 1, 199, 200, 5000} {
		want := bytes.Repeat([]byte("ab"), size)[:size]
		z := packed.Pack(append(packed.Begin(size), want...))
		got, err := packed.Unpack(z)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %d, %v", size, len(got), err)
		}
		if size == 5000 && len(z) > 100 {
			t.Errorf("%d bytes became %d", size, len(z))
		}
	}
}

func TestUnpackCorrupt(t *testing.T) {
	z := packed.Pack(append(packed.Begin(0), bytes.Repeat([]byte("ab"), 500)...))
	z[len(z)-1]++ // the checksum
	for _, b := range [][]byte{nil, {2, 1}, z, z[:len(z)/2]} {
		if _, err := packed.Unpack(b); !errors.Is(err, packed.ErrCorrupt) {
			t.Errorf("%x: %v", b, err)
		}
	}
}

func TestReader(t *testing.T) {
	b := append(binary.AppendVarint(binary.AppendUvarint(nil, 300), -7), "text"...)
	r := packed.NewReader(b)
	if u, v, text := r.Uvarint(), r.Varint(), string(r.Take(4)); u != 300 || v != -7 || text != "text" || r.Done() != nil {
		t.Errorf("read %d %d %q", u, v, text)
	}
	r = packed.NewReader(b)
	if r.Take(5000) != nil || r.Uvarint() != 0 || r.Varint() != 0 || !errors.Is(r.Done(), packed.ErrCorrupt) {
		t.Error("a reader goes on after a failure")
	}
	if r = packed.NewReader(b); r.Uvarint() != 300 || r.Done() == nil {
		t.Error("bytes are left and nobody says so")
	}
}
