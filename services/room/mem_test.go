package room

import (
	"os"
	"runtime"
	"testing"
)

// What a room costs in memory that is held but not used, with the events that the auth rules read of it.
func TestMemoryPerRoom(t *testing.T) {
	if testing.Short() || os.Getenv("HANSE_TEST_MEMORY") == "" {
		t.Skip("a measurement: set HANSE_TEST_MEMORY")
	}
	c := newCluster(t, 1)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for range 200 {
		c.create("12", alice, "public")
	}
	before := heap()
	const rooms = 2000
	for range rooms {
		roomID := c.create("12", alice, "public")
		if _, err := c.say(roomID, alice, "hello"); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d bytes a room, of them %d for cached events", (heap()-before)/rooms, c.workers[0].cache.Bytes()/(rooms+200))
}
