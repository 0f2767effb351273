package resolve_test

import (
	"math/rand/v2"
	"testing"

	"hanse/pkg/matrix/roomversion"
)

// choices are what a fuzzer decides: a byte each, or two where there are more than 256 ways; the first way when it has
// nothing more to say.
type choices struct{ left []byte }

// IntN implements roomgen.Rand.
func (c *choices) IntN(n int) int {
	v := 0
	for span := 1; span < n && len(c.left) > 0; span <<= 8 {
		v = v<<8 | int(c.left[0])
		c.left = c.left[1:]
	}
	return v % n
}

func addSeeds(f *testing.F, size int) {
	rng := rand.New(rand.NewPCG(4, 2))
	for version := range roomversion.Supported() {
		seed := make([]byte, size)
		for i := range seed {
			seed[i] = byte(rng.Uint32())
		}
		f.Add(uint8(version), seed)
	}
}

func versionOf(n uint8) string {
	versions := roomversion.Supported()
	return versions[int(n)%len(versions)]
}

// FuzzWildRooms looks for a room of any kind in which the result is not the oracle's.
func FuzzWildRooms(f *testing.F) {
	addSeeds(f, 600)
	f.Fuzz(func(t *testing.T, version uint8, decisions []byte) {
		compareWild(t, &choices{decisions}, versionOf(version))
	})
}

// FuzzHonestRooms does so among the rooms of servers that keep to the rules.
func FuzzHonestRooms(f *testing.F) {
	addSeeds(f, 300)
	f.Fuzz(func(t *testing.T, version uint8, decisions []byte) {
		compareHonest(t, &choices{decisions}, versionOf(version))
	})
}
