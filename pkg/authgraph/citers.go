package authgraph

// Citation is a place in the list of the events that cite one, newest first; 0 is its end. It lets a walk leave the list
// and come back, which an iterator does not.
type Citation uint32

// NewestCitation returns the begin of the list of those that cite an event.
func (g *Graph) NewestCitation(i Index) Citation { return Citation(g.last[i]) }

// Citer returns the event that cites, and the place after this one.
func (g *Graph) Citer(c Citation) (Index, Citation) { return g.by[c-1], Citation(g.older[c-1]) }
