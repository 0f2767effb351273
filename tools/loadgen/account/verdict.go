package account

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Fault is one entry of a verdict.
type Fault struct {
	Room    string `json:"room"`
	User    string `json:"user,omitempty"` // who saw it; empty: the history
	EventID string `json:"event_id,omitempty"`
	Key     Key    `json:"key"`
	Note    string `json:"note,omitempty"`
}

func (f Fault) String() string {
	who := f.User
	if who == "" {
		who = "history"
	}
	return fmt.Sprintf("%s %s in %s at %s %s", f.Key, f.EventID, f.Room, who, f.Note)
}

// Verdict is the ledger's judgement.
type Verdict struct {
	Sent       int64 `json:"sent"`
	Acked      int64 `json:"acked"`
	Deliveries int64 `json:"deliveries"`

	Lost       []Fault `json:"lost"`       // acknowledged, not shown to a receiver
	Missing    []Fault `json:"missing"`    // acknowledged, not in the history
	Duplicated []Fault `json:"duplicated"` // an event shown or stored twice
	SentTwice  []Fault `json:"sent_twice"` // one send, two events, whether acknowledged or not
	Reordered  []Fault `json:"reordered"`  // not in the order of the history, or of the sender
	Invented   []Fault `json:"invented"`   // shown or stored, never sent
	Unjoined   []Fault `json:"unjoined"`   // not what follows in the history on what the same chain of answers showed before
}

// OK tells whether nothing is wrong.
func (v *Verdict) OK() bool { return v.Faults() == 0 }

// Faults counts what is wrong.
func (v *Verdict) Faults() int {
	n := 0
	for _, k := range v.kinds() {
		n += len(k.faults)
	}
	return n
}

type kind struct {
	name   string
	faults []Fault
}

func (v *Verdict) kinds() []kind {
	return []kind{
		{"lost", v.Lost}, {"missing from history", v.Missing}, {"duplicated", v.Duplicated},
		{"sent twice", v.SentTwice}, {"reordered", v.Reordered}, {"invented", v.Invented},
		{"not what follows", v.Unjoined},
	}
}

// Summary is one line of counts.
func (v *Verdict) Summary() string {
	var b strings.Builder
	fmt.Fprintf(&b, "sent %d, acknowledged %d, deliveries %d", v.Sent, v.Acked, v.Deliveries)
	for _, k := range v.kinds() {
		fmt.Fprintf(&b, ", %s %d", k.name, len(k.faults))
	}
	return b.String()
}

const examples = 5 // faults of a kind that Err quotes

// Err returns nil, or an error that tells the counts and some examples.
func (v *Verdict) Err() error {
	if v.OK() {
		return nil
	}
	var b strings.Builder
	b.WriteString(v.Summary())
	for _, k := range v.kinds() {
		for i, f := range k.faults {
			if i == examples {
				fmt.Fprintf(&b, "\n  %s: and %d more", k.name, len(k.faults)-examples)
				break
			}
			fmt.Fprintf(&b, "\n  %s: %s", k.name, f)
		}
	}
	return errors.New(b.String())
}

// Verdict judges what was recorded so far. Call it when the senders have stopped
// and the receivers have caught up (see Owed).
func (l *Ledger) Verdict() *Verdict {
	v := &Verdict{}
	v.Sent, v.Acked, v.Deliveries = l.Counts()
	l.each(func(id string, r *room) {
		v.Lost = append(v.Lost, r.lost(id)...)
		v.Missing = append(v.Missing, r.missing(id)...)
		v.Duplicated = append(v.Duplicated, r.duplicated(id)...)
		v.SentTwice = append(v.SentTwice, r.sentTwice(id)...)
		v.Reordered = append(v.Reordered, r.reordered(id)...)
		v.Invented = append(v.Invented, r.invented(id)...)
		v.Unjoined = append(v.Unjoined, r.unjoined(id)...)
	})
	return v
}

func (r *room) fault(id, user string, n int32, note string) Fault {
	return Fault{Room: id, User: user, EventID: r.ids[n], Key: r.keys[n], Note: note}
}

func set(list []int32) map[int32]struct{} {
	m := make(map[int32]struct{}, len(list))
	for _, n := range list {
		m[n] = struct{}{}
	}
	return m
}

func (r *room) lost(id string) []Fault {
	var out []Fault
	for user, rc := range r.receivers {
		if rc.since < 0 {
			continue
		}
		shown := set(rc.shown)
		for _, s := range r.sends {
			if s.event < 0 || s.attempted <= rc.since {
				continue
			}
			if _, ok := shown[s.event]; !ok {
				out = append(out, r.fault(id, user, s.event, ""))
			}
		}
	}
	return out
}

func (r *room) missing(id string) []Fault {
	if !r.hasStored {
		return nil
	}
	var out []Fault
	stored := set(r.stored)
	for _, s := range r.sends {
		if s.event < 0 {
			continue
		}
		if _, ok := stored[s.event]; !ok {
			out = append(out, r.fault(id, "", s.event, ""))
		}
	}
	return out
}

func (r *room) duplicated(id string) []Fault {
	var out []Fault
	twice := func(user string, list []int32) {
		seen := make(map[int32]struct{}, len(list))
		for _, n := range list {
			if _, ok := seen[n]; ok {
				out = append(out, r.fault(id, user, n, ""))
			}
			seen[n] = struct{}{}
		}
	}
	for user, rc := range r.receivers {
		twice(user, rc.shown)
	}
	twice("", r.stored)
	return out
}

// sentTwice finds keys with more than one event, wherever those were seen.
func (r *room) sentTwice(id string) []Fault {
	var out []Fault
	first := make(map[Key]int32, len(r.ids))
	for n, k := range r.keys {
		if f, ok := first[k]; ok {
			out = append(out, r.fault(id, "", int32(n), "also "+r.ids[f]))
			continue
		}
		first[k] = int32(n)
	}
	for k, s := range r.sends {
		for _, other := range s.conflict {
			if n := r.events[other]; r.keys[n] != k {
				// The same event id acknowledged for two different sends.
				out = append(out, r.fault(id, "", n, "acknowledged for "+k.String()+" too"))
			}
		}
		if s.event >= 0 && r.keys[s.event] != k {
			out = append(out, r.fault(id, "", s.event, "acknowledged for "+k.String()+" too"))
		}
	}
	return out
}

// reordered holds what each receiver was shown, and each sender's sends, against
// one order: the history's, or without one the longest receiver's.
func (r *room) reordered(id string) []Fault {
	order := r.stored
	if !r.hasStored {
		var whose string
		for user, rc := range r.receivers {
			if len(rc.shown) > len(order) || len(rc.shown) == len(order) && user < whose {
				order, whose = rc.shown, user
			}
		}
	}
	place := make(map[int32]int, len(order))
	for i, n := range order {
		if _, ok := place[n]; !ok { // a double is reported as such
			place[n] = i
		}
	}
	var out []Fault
	for user, rc := range r.receivers {
		last := -1
		seen := make(map[int32]struct{}, len(rc.shown))
		for _, n := range rc.shown {
			p, ok := place[n]
			if _, again := seen[n]; again || !ok {
				continue // reported as duplicated or missing, or never acknowledged
			}
			seen[n] = struct{}{}
			if p < last {
				out = append(out, r.fault(id, user, n, "shown after "+r.ids[order[last]]))
				continue
			}
			last = p
		}
	}
	return append(out, r.senderOrder(id, place)...)
}

// senderOrder: a send that was acknowledged before the same sender's next attempt
// must stand before it.
func (r *room) senderOrder(id string, place map[int32]int) []Fault {
	bySender := map[string][]*send{}
	for k, s := range r.sends {
		if s.event >= 0 {
			bySender[k.Sender] = append(bySender[k.Sender], s)
		}
	}
	var out []Fault
	for _, sends := range bySender {
		slices.SortFunc(sends, func(a, b *send) int { return int(a.attempted - b.attempted) })
		var prev *send // the one that stands last among those acknowledged
		for _, s := range sends {
			p, ok := place[s.event]
			if !ok {
				continue
			}
			if prev != nil && prev.acked < s.attempted && place[prev.event] > p {
				out = append(out, r.fault(id, "", s.event, "stands before "+r.ids[prev.event]+", sent and acknowledged earlier"))
			}
			if prev == nil || p > place[prev.event] {
				prev = s
			}
		}
	}
	return out
}

func (r *room) invented(id string) []Fault {
	var out []Fault
	report := func(user string, list []int32) {
		for _, n := range list {
			if r.sends[r.keys[n]] == nil {
				out = append(out, r.fault(id, user, n, ""))
			}
		}
	}
	for user, rc := range r.receivers {
		report(user, rc.shown)
	}
	report("", r.stored)
	return out
}

// unjoined finds, in chains of answers, the first event that does not follow in
// the history on the one before it: told again, left out, or out of order.
func (r *room) unjoined(id string) []Fault {
	if !r.hasStored {
		return nil
	}
	place := make(map[int32]int, len(r.stored))
	for i, n := range r.stored {
		place[n] = i
	}
	var out []Fault
	for _, c := range r.chains {
		for i, n := range c.shown[1:] {
			before := c.shown[i]
			if p, ok := place[before]; ok && (p+1 >= len(r.stored) || r.stored[p+1] != n) {
				out = append(out, r.fault(id, c.user, n, "shown after "+r.ids[before]))
				break
			}
		}
	}
	return out
}
