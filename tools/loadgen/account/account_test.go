package account

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// history is a small run: what the room holds, in order.
type history struct {
	keys []Key
	ids  []string
}

func (h history) event(i int) (string, Key) { return h.ids[i], h.keys[i] }

const roomID = "!r:x"

// play records a run in which everything is right, each user being shown what
// shown[user] lists, and the history what stored lists.
func play(h history, acked []bool, shown map[string][]int, stored []int) *Ledger {
	l := New()
	for user := range shown {
		l.Receiver(roomID, user)
	}
	for i, id := range h.ids {
		l.Attempt(roomID, h.keys[i])
		if acked[i] {
			l.Acked(roomID, h.keys[i], id)
		}
	}
	for user, list := range shown {
		for _, i := range list {
			id, k := h.event(i)
			l.Delivered(roomID, user, id, k)
		}
	}
	l.StoredNone(roomID)
	for _, i := range stored {
		id, k := h.event(i)
		l.Stored(roomID, id, k)
	}
	return l
}

type run struct {
	h      history
	acked  []bool
	shown  map[string][]int
	stored []int
}

func genRun(t *rapid.T) run {
	n := rapid.IntRange(4, 30).Draw(t, "events")
	r := run{shown: map[string][]int{}}
	seq := map[string]int64{}
	for i := range n {
		s := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "sender")
		seq[s]++
		r.h.keys = append(r.h.keys, Key{s, seq[s]})
		r.h.ids = append(r.h.ids, fmt.Sprintf("$%d", i))
		r.acked = append(r.acked, rapid.Bool().Draw(t, "acked") || i == n/2)
		r.stored = append(r.stored, i)
	}
	for u := range rapid.IntRange(1, 4).Draw(t, "users") {
		r.shown[fmt.Sprintf("@u%d", u)] = slices.Clone(r.stored)
	}
	return r
}

func (r run) verdict() *Verdict { return play(r.h, r.acked, r.shown, r.stored).Verdict() }

// counts in the order lost, missing, duplicated, sent twice, reordered, invented.
func counts(v *Verdict) [6]int {
	return [6]int{len(v.Lost), len(v.Missing), len(v.Duplicated), len(v.SentTwice), len(v.Reordered), len(v.Invented)}
}

func TestACleanRunHasNoFault(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := genRun(t)
		l := play(r.h, r.acked, r.shown, r.stored)
		if v := l.Verdict(); !v.OK() || v.Err() != nil {
			t.Fatal(v.Err())
		}
		if l.Owed() != 0 {
			t.Fatal(l.Owed())
		}
	})
}

// Each kind of damage is found, and nothing else is reported for it.
func TestDamageIsFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := genRun(t)
		n := len(r.h.ids)
		mid := n / 2 // acknowledged
		const user = "@u0"
		var want [6]int
		switch kind := rapid.IntRange(0, 5).Draw(t, "damage"); kind {
		case 0:
			r.shown[user] = slices.Delete(slices.Clone(r.shown[user]), mid, mid+1)
			want[0] = 1
		case 1:
			r.stored = slices.Delete(slices.Clone(r.stored), mid, mid+1)
			want[1] = 1
		case 2:
			at := rapid.IntRange(mid, n).Draw(t, "again")
			r.shown[user] = slices.Insert(slices.Clone(r.shown[user]), at, mid)
			want[2] = 1
		case 3: // a retry became a second event; everybody sees both
			r.h.ids = append(r.h.ids, "$again")
			r.h.keys = append(r.h.keys, r.h.keys[mid])
			r.acked = append(r.acked, false)
			r.stored = append(r.stored, n)
			for u := range r.shown {
				r.shown[u] = append(r.shown[u], n)
			}
			want[3] = 1
		case 4:
			s := slices.Clone(r.shown[user])
			s[mid], s[mid-1] = s[mid-1], s[mid]
			r.shown[user] = s
			want[4] = 1
		case 5: // never sent
			l := play(r.h, r.acked, r.shown, r.stored)
			l.Delivered(roomID, user, "$ghost", Key{"ghost", 1})
			want[5] = 1
			if got := counts(l.Verdict()); got != want {
				t.Fatalf("got %v want %v", got, want)
			}
			return
		}
		v := r.verdict()
		if got := counts(v); got != want {
			t.Fatalf("got %v want %v: %v", got, want, v.Err())
		}
		if v.Err() == nil || !strings.Contains(v.Err().Error(), roomID) {
			t.Fatal("no error text")
		}
	})
}

func TestTwoAnswersForOneSend(t *testing.T) {
	l := New()
	k := Key{"a", 1}
	l.Attempt(roomID, k)
	l.Acked(roomID, k, "$1")
	l.Acked(roomID, k, "$1")
	if v := l.Verdict(); !v.OK() {
		t.Fatal(v.Err())
	}
	l.Acked(roomID, k, "$2")
	if got := counts(l.Verdict()); got != [6]int{3: 1} {
		t.Fatal(got)
	}
}

func TestOneEventForTwoSends(t *testing.T) {
	l := New()
	l.Acked(roomID, Key{"a", 1}, "$1")
	l.Acked(roomID, Key{"a", 2}, "$1")
	if got := counts(l.Verdict()); got != [6]int{3: 1} {
		t.Fatal(got)
	}
}

func TestSenderOrder(t *testing.T) {
	l := New()
	l.Acked(roomID, Key{"a", 1}, "$1")
	l.Acked(roomID, Key{"a", 2}, "$2")
	l.Stored(roomID, "$2", Key{"a", 2})
	l.Stored(roomID, "$1", Key{"a", 1})
	if got := counts(l.Verdict()); got != [6]int{4: 1} {
		t.Fatal(got)
	}
	// Two that were under way at once may stand either way.
	l = New()
	l.Attempt(roomID, Key{"a", 1})
	l.Attempt(roomID, Key{"a", 2})
	l.Acked(roomID, Key{"a", 2}, "$2")
	l.Acked(roomID, Key{"a", 1}, "$1")
	l.Stored(roomID, "$2", Key{"a", 2})
	l.Stored(roomID, "$1", Key{"a", 1})
	if v := l.Verdict(); !v.OK() {
		t.Fatal(v.Err())
	}
}

func TestALateReceiverIsOwedWhatComesLater(t *testing.T) {
	l := New()
	l.Acked(roomID, Key{"a", 1}, "$1")
	l.Receiver(roomID, "@late")
	l.Acked(roomID, Key{"a", 2}, "$2")
	if n := l.Owed(); n != 1 {
		t.Fatal(n)
	}
	l.Delivered(roomID, "@late", "$2", Key{"a", 2})
	if n := l.Owed(); n != 0 {
		t.Fatal(n)
	}
	if !l.Has(roomID, "@late", "$2") || l.Has(roomID, "@late", "$1") {
		t.Error("Has is wrong")
	}
}

func FuzzMark(f *testing.F) {
	f.Add("lg1 r 5 77 @a:x")
	f.Add("lg1 r 5 77 ")
	f.Add("hello")
	f.Fuzz(func(t *testing.T, body string) {
		m, ok := ParseMark(body)
		if !ok {
			return
		}
		again, ok := ParseMark(m.String())
		if !ok || again != m {
			t.Errorf("%q: %+v, then %+v", body, m, again)
		}
	})
}

// An answer holds exactly what comes behind its since and up to its next_batch, in order (client-server API, "Syncing").
func TestChainsArePartsOfTheHistory(t *testing.T) {
	for _, tt := range []struct {
		name  string
		shown []int
		want  int
	}{
		{"part", []int{1, 2, 3}, 0}, {"all", []int{0, 1, 2, 3, 4}, 0}, {"one", []int{4}, 0},
		{"told again", []int{1, 2, 2, 3}, 1}, {"told again from earlier", []int{1, 2, 3, 2, 3}, 1},
		{"left out", []int{1, 3}, 1}, {"out of order", []int{1, 3, 2}, 1}, {"behind the end", []int{4, 0}, 1},
	} {
		l := New()
		var shown []Shown
		for i := range 5 {
			k := Key{"a", int64(i)}
			l.Attempt(roomID, k)
			l.Acked(roomID, k, fmt.Sprint("$", i))
			l.Stored(roomID, fmt.Sprint("$", i), k)
		}
		for _, i := range tt.shown {
			shown = append(shown, Shown{fmt.Sprint("$", i), Key{"a", int64(i)}})
		}
		l.Chain(roomID, "@u", shown)
		if v := l.Verdict(); len(v.Unjoined) != tt.want || v.Faults() != tt.want {
			t.Errorf("%s: %s, want %d faults", tt.name, v.Summary(), tt.want)
		}
	}
}
