package authgraph

// addLevel gives a power levels event its place in the forest. The jump goes twice as far as that of the parent if the
// parent's and its jump's are equally long: any ancestor is then O(log depth) jumps away.
func (g *Graph) addLevel(i Index) {
	parent := g.Levels(i)
	if parent == None {
		g.levels[i] = level{depth: 1, parent: None, jump: i}
		return
	}
	p := g.levels[parent]
	jump := parent
	if j := g.levels[p.jump]; p.depth-j.depth == j.depth-g.levels[j.jump].depth {
		jump = j.jump
	}
	g.levels[i] = level{depth: p.depth + 1, parent: parent, jump: jump}
}

// Levels returns the power levels event among the auth events of an event, or None. Of several the first counts.
func (g *Graph) Levels(i Index) Index {
	for _, a := range g.Auth(i) {
		if g.keys[g.key[a]] == powerLevels {
			return a
		}
	}
	return None
}

// CommonLevels returns how deep in the forest of power levels events the nearest common ancestor of two of them lies:
// 1 for a root, 0 if they have none in common. An event is an ancestor of itself. With p the power levels of a resolved
// state and q those of an event's auth events, a greater depth is a lower position of the event in the mainline of p.
func (g *Graph) CommonLevels(p, q Index) int {
	if p == None || q == None {
		return 0
	}
	a, b := g.levels[p], g.levels[q]
	for a.depth > b.depth {
		if j := g.levels[a.jump]; j.depth >= b.depth && a.jump != p {
			p, a = a.jump, j
		} else {
			p = a.parent
			a = g.levels[p]
		}
	}
	for b.depth > a.depth {
		if j := g.levels[b.jump]; j.depth >= a.depth && b.jump != q {
			q, b = b.jump, j
		} else {
			q = b.parent
			b = g.levels[q]
		}
	}
	for p != q {
		switch {
		case a.parent == None:
			return 0
		case a.jump != b.jump:
			p, q = a.jump, b.jump
		default:
			p, q = a.parent, b.parent
		}
		a, b = g.levels[p], g.levels[q]
	}
	return int(a.depth)
}
