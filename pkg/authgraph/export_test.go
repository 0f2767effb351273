package authgraph

// NewStoreOf returns a store whose blocks have so many events.
func NewStoreOf(budget int64, block int) *Store { return newStore(budget, block, nil) }

// Encode returns the stored form of a whole graph, as blocks of so many events; what is left over is left out.
func (g *Graph) Encode(block int) (blocks [][]byte) {
	for from := 0; g.Len()-from >= block; from += block {
		blocks = append(blocks, g.encodeBlock(Index(from), Index(from+block)))
	}
	return blocks
}

// Decode makes a graph of blocks of so many events.
func Decode(blocks [][]byte, block int) (*Graph, error) {
	g := New()
	for _, b := range blocks {
		if err := g.addBlock(b, block); err != nil {
			return nil, err
		}
	}
	return g, nil
}
