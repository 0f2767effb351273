package sliding

// Conn is a connection as it is stored: at the position that the client has proven to have got, and at that of the newest answer.
type Conn struct {
	Generation int64
	N          int64  // number of the position that the client has got
	State      *State // there
	NextN      int64  // that of the newest answer; N: there is no other
	next       *Changes

	stored int      // bytes of the state that is stored as the base
	delta  *Changes // what has changed since
}

// Row is a connection's row.
type Row struct {
	Generation, N, NextN int64
	Base, Delta, Next    []byte
}

// Begin returns a new connection, and its row.
func Begin(generation int64, c *Changes) (*Conn, Row) {
	s := (&State{}).With(c)
	row := Row{Generation: generation, N: 1, NextN: 1, Base: s.Encode()}
	return &Conn{Generation: generation, N: 1, NextN: 1, State: s, next: new(Changes), delta: new(Changes), stored: len(row.Base)}, row
}

// Open reads a connection from its row.
func Open(row Row) (*Conn, error) {
	s, err := DecodeState(row.Base)
	if err != nil {
		return nil, err
	}
	delta, err := DecodeChanges(row.Delta)
	if err != nil {
		return nil, err
	}
	next, err := DecodeChanges(row.Next)
	if err != nil {
		return nil, err
	}
	return &Conn{Generation: row.Generation, N: row.N, State: s.With(delta), NextN: row.NextN, next: next, delta: delta, stored: len(row.Base)}, nil
}

// At returns the connection as of a position that the client comes back with: nothing after it counts. It is nil if the
// connection has no such position, or not any more.
func (c *Conn) At(n int64) *Conn {
	switch n {
	case c.N:
		return c
	case c.NextN:
		at := *c
		at.N, at.State, at.delta, at.next = n, c.State.With(c.next), c.delta.And(c.next), new(Changes)
		return &at
	}
	return nil
}

// foldAt is from how many bytes of changes on the base is written anew, unless it is much larger itself.
const foldAt = 2048

// Answered returns the connection after an answer, at whose position nothing but what the client proves to have got is certain, and
// the row to write. Base is nil if it stays.
func (c *Conn) Answered(changes *Changes) (*Conn, Row) {
	after := *c
	after.next, after.NextN = changes, c.NextN+1
	row := Row{Generation: c.Generation, N: c.N, NextN: after.NextN, Next: changes.Encode(), Delta: c.delta.Encode()}
	if len(row.Delta) > max(foldAt, c.stored/4) {
		row.Base, row.Delta = c.State.Encode(), []byte{}
		after.delta, after.stored = new(Changes), len(row.Base)
	}
	return &after, row
}

// Size is about how many bytes the connection takes in memory.
func (c *Conn) Size() int {
	return 200 + c.State.Size() + 16*(len(c.next.rooms)+len(c.delta.rooms))
}
