package fedout

import (
	"context"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
)

// What is kept of destinations that are behind: rows of destination_behind and destination_room. A dest knows where it
// stands (behind) and, apart from that, what the table has (rows). Only flush and lookBehind touch the table, one at a
// time, and only they change rows; so a destination may catch up and fall behind again between two flushes, or while
// one is under way, and the next flush still makes the table what it must be.

// unsure stands for a row that may be there or not, at any position: somebody began to change it. It covers nothing,
// and is written again or deleted.
const unsure = math.MaxInt64

// lookBehind takes over what the tables have.
func (p *destPart) lookBehind(ctx context.Context) error {
	p.rows.Lock()
	defer p.rows.Unlock()
	rows, err := p.readServers(ctx, sqlBehind)
	if err != nil {
		return fmt.Errorf("read destinations that are behind: %w", err)
	}
	rooms, err := p.readServers(ctx, sqlExtras)
	if err != nil {
		return fmt.Errorf("read rooms of destinations: %w", err)
	}
	for server := range rows {
		p.dest(server) // begins to exist
	}
	for _, d := range p.all() {
		d.adopt(rows[d.server], rooms[d.server], p.opened)
	}
	p.opened = true
	return nil
}

// behindRow is a row of a destination: the number is a position or a room.
type behindRow struct {
	logPart uint32
	n       int64
}

func (p *destPart) readServers(ctx context.Context, sql string) (map[id.Server][]behindRow, error) {
	rows, err := p.f.s.shards.For(p.N).Query(ctx, sql, int32(p.N))
	if err != nil {
		return nil, err
	}
	out := make(map[id.Server][]behindRow)
	var server id.Server
	var r behindRow
	_, err = pgx.ForEachRow(rows, []any{&server, &r.logPart, &r.n}, func() error {
		out[server] = append(out[server], r)
		return nil
	})
	return out, err
}

// adopt takes over what the tables have of the destination, and sends what that says it missed. A row that was not
// known is that of the worker that had the partition before or, later, of somebody who replays a dead letter, and who has deleted
// what was refused; a known one of a log partition that was caught up with waits to be deleted.
func (d *dest) adopt(rows, rooms []behindRow, later bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	known := d.rows
	d.rows = make(map[uint32]int64, len(rows))
	for _, r := range rows {
		_, isKnown := known[r.logPart]
		_, isBehind := d.behind[r.logPart]
		if !isKnown && !isBehind {
			d.lagAt(r.logPart, r.n)
			if later {
				d.refused, d.fresh = nil, nil
			}
		}
		d.rows[r.logPart] = r.n
	}
	for _, r := range rooms {
		if _, isBehind := d.behind[r.logPart]; isBehind {
			d.addExtra(roomKey{r.logPart, r.n}, true)
		}
	}
	d.start()
}

// rowChanges are changes of one table.
type rowChanges struct {
	dests   []*dest
	servers []string
	parts   []int32
	numbers []int64
}

func (c *rowChanges) add(d *dest, part uint32, n int64) {
	c.dests, c.servers = append(c.dests, d), append(c.servers, string(d.server))
	c.parts, c.numbers = append(c.parts, int32(part)), append(c.numbers, n)
}

// each calls f for every change, with its destination locked.
func (c *rowChanges) each(f func(d *dest, part uint32, n int64)) {
	for i, d := range c.dests {
		d.mu.Lock()
		f(d, uint32(c.parts[i]), c.numbers[i])
		d.mu.Unlock()
	}
}

// tableChanges make the tables what destinations are: positions and rooms to store, log partitions to forget.
type tableChanges struct {
	put, drop, rooms rowChanges
	refused          refusedChanges
}

func (c *tableChanges) empty() bool {
	return len(c.put.dests)+len(c.drop.dests)+len(c.rooms.dests)+len(c.refused.dests) == 0
}

// collect adds what the tables lack of a destination. From now on nobody can be sure of these rows.
func (c *tableChanges) collect(d *dest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.rows == nil {
		d.rows = make(map[uint32]int64)
	}
	for part := range d.rows {
		if _, ok := d.behind[part]; !ok {
			c.drop.add(d, part, 0)
			d.rows[part] = unsure
		}
	}
	for part, pos := range d.behind {
		if row, ok := d.rows[part]; !ok || row != pos {
			c.put.add(d, part, pos)
			d.rows[part] = unsure
		}
	}
	for key, stored := range d.extras {
		if _, ok := d.behind[key.part]; ok && !stored {
			c.rooms.add(d, key.part, key.nid)
		}
	}
	c.refused.collect(d)
}

// done notes that the tables have the changes.
func (c *tableChanges) done() {
	c.put.each(func(d *dest, part uint32, pos int64) { d.rows[part] = pos })
	c.drop.each(func(d *dest, part uint32, _ int64) { delete(d.rows, part) })
	c.rooms.each(func(d *dest, part uint32, nid int64) {
		if _, ok := d.extras[roomKey{part, nid}]; ok {
			d.extras[roomKey{part, nid}] = true
		}
	})
	c.refused.done()
}

// flushBehind stores the positions of destinations that are behind.
func (p *destPart) flushBehind(ctx context.Context, dests []*dest) error {
	var c tableChanges
	for _, d := range dests {
		c.collect(d)
	}
	if c.empty() {
		return nil
	}
	var b pgx.Batch
	if len(c.rooms.dests) > 0 {
		b.Queue(sqlPutExtras, int32(p.N), c.rooms.servers, c.rooms.parts, c.rooms.numbers)
	}
	if len(c.put.dests) > 0 {
		b.Queue(sqlPutBehind, int32(p.N), c.put.servers, c.put.parts, c.put.numbers)
	}
	if len(c.drop.dests) > 0 {
		b.Queue(sqlDropBehind, int32(p.N), c.drop.servers, c.drop.parts)
		b.Queue(sqlDropExtras, int32(p.N), c.drop.servers, c.drop.parts)
	}
	c.refused.queue(&b, p.N)
	if err := p.Store(ctx, &b); err != nil {
		return fmt.Errorf("store destinations that are behind: %w", err)
	}
	c.done()
	return nil
}
