package fedout

import (
	"context"
	"fmt"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"google.golang.org/protobuf/proto"

	"hanse/pkg/matrix/id"
	"hanse/pkg/outgoing"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	logv1 "hanse/proto/log/v1"
)

// roomKey names a room by its log partition and numeric id.
type roomKey struct {
	part uint32
	nid  int64
}

// target is a server with its partition.
type target struct {
	server id.Server
	part   uint32
}

// roomServers are the servers in one room. It is immutable but for counts, which only who moves it forward touches.
type roomServers struct {
	counts map[id.Server]int
	// remote are the other servers, ours one of ours in the room, "" if there is none.
	remote []target
	ours   id.Server
}

// knownRooms bounds the rooms whose servers a worker remembers.
const knownRooms = 50_000

// roomCache remembers which servers are in a room, as of the last log entry that was handled. Entries of a partition
// come one after the other, so that each room has one position in time.
type roomCache struct {
	shards  *pg.Shards
	isLocal func(id.Server) bool

	mu    sync.Mutex
	rooms *simplelru.LRU[roomKey, *roomServers]
}

func newRoomCache(shards *pg.Shards, isLocal func(id.Server) bool) *roomCache {
	rooms, err := simplelru.NewLRU[roomKey, *roomServers](knownRooms, nil)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &roomCache{shards: shards, isLocal: isLocal, rooms: rooms}
}

// at returns the servers that are in the room after position pos of its partition.
func (c *roomCache) at(ctx context.Context, key roomKey, pos int64) (*roomServers, error) {
	c.mu.Lock()
	rs, ok := c.rooms.Get(key)
	c.mu.Unlock()
	if ok {
		return rs, nil
	}
	counts, err := c.read(ctx, key, pos)
	if err != nil {
		return nil, err
	}
	rs = c.build(counts)
	c.mu.Lock()
	c.rooms.Add(key, rs)
	c.mu.Unlock()
	return rs, nil
}

// peek returns the servers as far as they are remembered.
func (c *roomCache) peek(key roomKey) (*roomServers, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rooms.Get(key)
}

func (c *roomCache) forget(key roomKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rooms.Remove(key)
}

// forgetPart drops all rooms of a log partition, before its log is read again from an earlier position.
func (c *roomCache) forgetPart(part uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range c.rooms.Keys() {
		if key.part == part {
			c.rooms.Remove(key)
		}
	}
}

func (c *roomCache) build(counts map[id.Server]int) *roomServers {
	rs := &roomServers{counts: counts, remote: make([]target, 0, len(counts))}
	for server, n := range counts {
		switch {
		case n <= 0:
		case c.isLocal(server):
			if rs.ours == "" || server < rs.ours {
				rs.ours = server
			}
		default:
			rs.remote = append(rs.remote, target{server, partition.Of(string(server))})
		}
	}
	return rs
}

func (c *roomCache) read(ctx context.Context, key roomKey, pos int64) (map[id.Server]int, error) {
	rows, err := c.shards.For(key.part).Query(ctx, sqlServersAt, int32(key.part), key.nid, pos)
	if err != nil {
		return nil, fmt.Errorf("read servers of a room: %w", err)
	}
	defer rows.Close()
	counts := make(map[id.Server]int)
	for rows.Next() {
		var name string
		var joined int
		var body []byte
		if err := rows.Scan(&name, &joined, &body); err != nil {
			return nil, fmt.Errorf("read servers of a room: %w", err)
		}
		if body == nil {
			counts[id.Server(name)] += joined
			continue
		}
		e := new(logv1.Event)
		if err := proto.Unmarshal(body, e); err != nil {
			return nil, fmt.Errorf("log entry of a room: %w", err)
		}
		counts[id.User(name).Server()] -= outgoing.Joins(e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read servers of a room: %w", err)
	}
	return counts, nil
}

// advance moves what is remembered of a room past an entry. A change that came from elsewhere may have merged a fork
// and moved members that the entry does not name: then the room is read anew when it is needed next. An entry of
// ours changes no more than it says.
func (c *roomCache) advance(key roomKey, e *logv1.Event) {
	if e.CurrentBefore == e.CurrentAfter {
		return
	}
	rs, ok := c.peek(key)
	if !ok {
		return
	}
	if !e.Local || len(e.Moved) > 0 {
		c.forget(key)
		return
	}
	n := outgoing.Joins(e)
	if n == 0 || e.StateKey == nil {
		return
	}
	counts := make(map[id.Server]int, len(rs.counts)+1)
	for s, old := range rs.counts {
		counts[s] = old
	}
	server := id.User(*e.StateKey).Server()
	was := counts[server]
	counts[server] += n
	if was > 0 == (counts[server] > 0) {
		rs.counts = counts // the same servers as before
		return
	}
	next := c.build(counts)
	c.mu.Lock()
	c.rooms.Add(key, next)
	c.mu.Unlock()
}
