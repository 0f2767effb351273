package token

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"hanse/pkg/matrix/id"
)

// ErrInvalid is returned for tokens that we did not make, or made for somebody else.
var ErrInvalid = errors.New("not a token of this user")

// Sync is the position of a /sync: all that lies at or before it was delivered.
type Sync struct {
	// UserSeq is the position in the user's stream.
	UserSeq int64
	// Behind is how far the delivery of to-device messages is behind UserSeq: there were too many for one answer.
	Behind int64
	// Pos are the positions in the logs of the partitions in which the user has rooms, by partition.
	Pos []PartPos
	// Eph is the position in what is not in any log.
	Eph Ephemeral
}

// PartPos is a position in a partition's log.
type PartPos struct {
	Part uint32
	Pos  int64
}

// Ephemeral is a position in the typing notifications and presence that one worker has seen. To others it is a time.
type Ephemeral struct {
	Worker uint32
	// Counter is the worker's clock, in milliseconds since 1970; it never stands still or goes back.
	Counter uint64
}

const (
	syncVersion = 1
	sumBytes    = 4
	// maxSync bounds what is decoded: a version, a sum, four numbers and a pair of numbers for each of 4,096 partitions.
	maxSync = 4 * (1 + sumBytes + 4*binary.MaxVarintLen64 + 4096*(3+binary.MaxVarintLen64)) / 3
)

// At returns the position of a partition. Pos must be in order of its partitions.
func (s *Sync) At(part uint32) (int64, bool) {
	i, ok := slices.BinarySearchFunc(s.Pos, part, func(p PartPos, part uint32) int { return cmp.Compare(p.Part, part) })
	if !ok {
		return 0, false
	}
	return s.Pos[i].Pos, true
}

// DeviceSeq is the position in the user's stream up to which to-device messages were delivered.
func (s *Sync) DeviceSeq() int64 { return s.UserSeq - s.Behind }

// Encode writes the token for one user. Pos must be in order of its partitions.
func (s *Sync) Encode(user id.User) string {
	b := make([]byte, 0, 48+6*len(s.Pos))
	b = append(b, syncVersion)
	b = binary.AppendUvarint(b, uint64(s.UserSeq))
	b = binary.AppendUvarint(b, uint64(s.Behind))
	b = binary.AppendUvarint(b, uint64(s.Eph.Worker))
	b = binary.AppendUvarint(b, s.Eph.Counter)
	next := uint32(0)
	for _, p := range s.Pos {
		b = binary.AppendUvarint(b, uint64(p.Part-next))
		b = binary.AppendUvarint(b, uint64(p.Pos))
		next = p.Part + 1
	}
	return base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint32(b, sum(b, user)))
}

// sum ties a token to its user and finds damage. It is no secret: a token gives nobody access to anything.
func sum(b []byte, user id.User) uint32 {
	h := uint32(2166136261) // FNV-1a
	for _, c := range b {
		h = (h ^ uint32(c)) * 16777619
	}
	for i := range len(user) {
		h = (h ^ uint32(user[i])) * 16777619
	}
	return h
}

// ParseSync reads a token that Encode wrote for this user, or returns ErrInvalid.
func ParseSync(text string, user id.User) (Sync, error) {
	if len(text) > maxSync {
		return Sync{}, ErrInvalid
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < 1+sumBytes || b[0] != syncVersion {
		return Sync{}, ErrInvalid
	}
	body := b[:len(b)-sumBytes]
	if binary.BigEndian.Uint32(b[len(body):]) != sum(body, user) {
		return Sync{}, ErrInvalid
	}
	s, err := decodeSync(body[1:])
	if err != nil {
		return Sync{}, err
	}
	if s.Encode(user) != text {
		return Sync{}, ErrInvalid // numbers in a longer form than ours
	}
	return s, nil
}

func decodeSync(b []byte) (Sync, error) {
	var bad bool
	number := func() uint64 {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			bad, b = true, nil
			return 0
		}
		b = b[size:]
		return n
	}
	position := func() int64 {
		n := number()
		bad = bad || n > 1<<62
		return int64(n)
	}
	s := Sync{UserSeq: position()}
	s.Behind = position()
	bad = bad || s.Behind > s.UserSeq
	worker := number()
	bad = bad || worker > 1<<32-1
	s.Eph = Ephemeral{Worker: uint32(worker), Counter: number()}
	next := uint64(0)
	for len(b) > 0 && !bad {
		part := next + number()
		if part >= 4096 {
			return Sync{}, ErrInvalid
		}
		s.Pos = append(s.Pos, PartPos{Part: uint32(part), Pos: position()})
		next = part + 1
	}
	if bad {
		return Sync{}, fmt.Errorf("%w: number", ErrInvalid)
	}
	return s, nil
}
