package appservice

import (
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode"

	"hanse/pkg/matrix/id"
)

// maxJoint bounds the states that are looked at when two expressions are compared. Beyond it they count as overlapping.
const maxJoint = 1 << 18

// overlap reports whether an id of a server, with this sigil, is in both namespaces. It runs the programs of both expressions, and
// of one for the ids of the server, side by side over all texts at once: there is such an id if all three can match together. Word
// boundaries are taken to hold everywhere, so that expressions with them may be found to overlap though they do not.
func overlap(a, b *Namespace, sigil string, server id.Server) bool {
	if !strings.HasPrefix(a.Prefix, b.Prefix) && !strings.HasPrefix(b.Prefix, a.Prefix) {
		return false
	}
	j := joint{seen: make(map[jointState]struct{})}
	var start jointState
	for i, regex := range []string{a.Source, b.Source, sigil + `[^:]*:` + regexp.QuoteMeta(string(server)) + `$`} {
		_, prog, err := program(regex)
		if err != nil {
			return true // it was compiled before: this does not happen
		}
		j.prog[i], start.pc[i] = prog, int32(prog.Start)
	}
	j.add(start)
	for len(j.todo) > 0 {
		s := j.todo[len(j.todo)-1]
		j.todo = j.todo[:len(j.todo)-1]
		if s.pc == [3]int32{matched, matched, matched} || len(j.seen) > maxJoint {
			return true
		}
		j.step(s)
	}
	return false
}

// matched stands for the place in a program that has matched: whatever follows, it stays so.
const matched = -1

// jointState is where the programs are after some text.
type jointState struct {
	pc     [3]int32
	inside bool // a character was read: it is not the start any more
	ended  bool // an expression has asked for the end: no character may follow
}

type joint struct {
	prog [3]*syntax.Prog
	todo []jointState
	seen map[jointState]struct{}
}

func (j *joint) add(s jointState) {
	if _, ok := j.seen[s]; !ok {
		j.seen[s] = struct{}{}
		j.todo = append(j.todo, s)
	}
}

// push adds a state that differs from s in the place of one program.
func (j *joint) push(s jointState, i int, pc uint32) {
	s.pc[i] = int32(pc)
	j.add(s)
}

// step adds what follows a state: by an instruction that reads nothing, or if all programs wait for a character, by reading one
// that all of them take.
func (j *joint) step(s jointState) {
	for i, pc := range s.pc {
		if pc == matched {
			continue
		}
		inst := &j.prog[i].Inst[pc]
		switch inst.Op {
		case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
			continue
		case syntax.InstAlt, syntax.InstAltMatch:
			j.push(s, i, inst.Out)
			j.push(s, i, inst.Arg)
		case syntax.InstCapture, syntax.InstNop:
			j.push(s, i, inst.Out)
		case syntax.InstEmptyWidth:
			op := syntax.EmptyOp(inst.Arg)
			if op&(syntax.EmptyBeginText|syntax.EmptyBeginLine) != 0 && s.inside {
				return
			}
			s.ended = s.ended || op&(syntax.EmptyEndText|syntax.EmptyEndLine) != 0
			j.push(s, i, inst.Out)
		case syntax.InstMatch:
			s.pc[i] = matched
			j.add(s)
		case syntax.InstFail:
		}
		return
	}
	if s.ended {
		return
	}
	common := []rune{0, unicode.MaxRune}
	next := jointState{pc: s.pc, inside: true}
	for i, pc := range s.pc {
		if pc == matched {
			continue
		}
		inst := &j.prog[i].Inst[pc]
		common = intersect(common, runesOf(inst))
		next.pc[i] = int32(inst.Out)
	}
	if len(common) > 0 {
		j.add(next)
	}
}

// runesOf returns the characters that an instruction takes, as pairs of the first and the last of each range, in order.
func runesOf(inst *syntax.Inst) []rune {
	switch inst.Op {
	case syntax.InstRuneAny:
		return []rune{0, unicode.MaxRune}
	case syntax.InstRuneAnyNotNL:
		return []rune{0, '\n' - 1, '\n' + 1, unicode.MaxRune}
	}
	if len(inst.Rune) != 1 {
		return inst.Rune
	}
	r := inst.Rune[0]
	pairs := []rune{r, r}
	if syntax.Flags(inst.Arg)&syntax.FoldCase == 0 {
		return pairs
	}
	// The orbit of a character goes up and then begins again at its lowest one.
	low := r
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		low = min(low, f)
	}
	pairs = []rune{low, low}
	for f := unicode.SimpleFold(low); f != low; f = unicode.SimpleFold(f) {
		pairs = append(pairs, f, f)
	}
	return pairs
}

// intersect returns the characters that are in both lists of ranges.
func intersect(a, b []rune) []rune {
	var out []rune
	for len(a) > 0 && len(b) > 0 {
		if lo, hi := max(a[0], b[0]), min(a[1], b[1]); lo <= hi {
			out = append(out, lo, hi)
		}
		if a[1] < b[1] {
			a = a[2:]
		} else {
			b = b[2:]
		}
	}
	return out
}
