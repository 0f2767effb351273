package sync

import (
	"maps"
	"testing"

	"hanse/pkg/matrix/id"
	"hanse/pkg/notify"
	"hanse/pkg/roomdb"
	logv1 "hanse/proto/log/v1"
)

// Client-server API, "Push Rules": rules for whole rooms keep counts subtractions, others have events looked at. Actions
// but notify mean nothing for counts: dont_notify and coalesce are ignored.
func TestRulesThatConcernRooms(t *testing.T) {
	p := newPrefs("@u:a", nil, 1, []byte(`{"global":{
		"override":[{"rule_id":"!mute:a","enabled":true,"actions":["dont_notify"],"conditions":[{"kind":"event_match","key":"room_id","pattern":"!mute:a"}]},
			{"rule_id":"!old:a","enabled":true,"actions":["coalesce"],"conditions":[{"kind":"event_match","key":"room_id","pattern":"!old:a"}]}],
		"room":[{"rule_id":"!quiet:a","enabled":true,"actions":[]},{"rule_id":"!off:a","enabled":false,"actions":[]}]}}`), nil)
	for room, want := range map[id.Room]notify.Level{"!mute:a": notify.None, "!old:a": notify.None, "!quiet:a": notify.Mentions, "!off:a": notify.All, "!other:a": notify.All} {
		if got := p.Level(room); got != want {
			t.Errorf("%s: %v, want %v", room, got, want)
		}
	}
	if p.Own() {
		t.Error("rules for whole rooms have events looked at one by one")
	}
	off := newPrefs("@u:a", p, 2, []byte(`{"global":{"override":[{"rule_id":".m.rule.master","enabled":true,"actions":[]}]}}`), nil)
	if off.Level("!other:a") != notify.None {
		t.Error("the master rule turns nothing off")
	}
	for name, rules := range map[string]string{
		"keyword":   `{"content":[{"rule_id":"hanse","enabled":true,"pattern":"hanse","actions":["notify",{"set_tweak":"highlight"}]}]}`,
		"loud room": `{"room":[{"rule_id":"!loud:a","enabled":true,"actions":["notify"]}]}`,
		"sender":    `{"sender":[{"rule_id":"@x:a","enabled":true,"actions":[]}]}`,
		"default":   `{"underride":[{"rule_id":".m.rule.message","default":true,"enabled":false,"actions":["notify"]}]}`,
	} {
		if !newPrefs("@u:a", nil, 1, []byte(`{"global":`+rules+`}`), nil).Own() {
			t.Errorf("%s: no single event is looked at", name)
		}
	}
}

// Client-server API, "Ignoring Users": state is told all the same.
func TestIgnored(t *testing.T) {
	p := newPrefs("@u:a", nil, 1, nil, []byte(`{"ignored_users":{"@bad:a":{}}}`))
	if !p.ignored.Has("@bad:a") || p.ignored.Has("@good:a") {
		t.Error("who is ignored")
	}
	again := newPrefs("@u:a", p, 2, nil, []byte(`{"ignored_users":{}}`))
	if again.ignored.Has("@bad:a") {
		t.Error("still ignored")
	}
}

// Client-server API, "Threaded read receipts".
func TestReadPlaces(t *testing.T) {
	st := &readState{ord: 5, notifySeq: 2}
	read := st.place([]roomdb.Receipt{
		{Type: "m.read", Ord: 10, NotifySeq: 4}, {Type: "m.read.private", Ord: 12, NotifySeq: 6},
		{Type: "m.read", Thread: "main", Ord: 11}, {Type: "m.read", Thread: "$t", Ord: 20}, {Type: "m.read", Thread: "$s", Ord: 3},
	})
	if st.ord != 12 || st.notifySeq != 6 || !maps.Equal(read.Threads, map[string]int64{"$t": 20}) {
		t.Errorf("read up to %d (%d), threads %v", st.ord, st.notifySeq, read.Threads)
	}
}

func TestReceiptsClearWhatTheyCover(t *testing.T) {
	receipt := func(thread string, notifySeq int64) *entry {
		return &entry{receipt: &logv1.Receipt{Type: "m.read", ThreadId: thread, NotifySeq: notifySeq, Ord: 100}}
	}
	fresh := func() *readState {
		return &readState{head: 9, tallies: map[string]tally{"": {1, 0}, "$t": {2, 1}}}
	}
	st := fresh()
	if !st.read(receipt("$t", 9)) || st.tallies["$t"] != (tally{}) || st.tallies[""] != (tally{1, 0}) {
		t.Errorf("a thread: %v", st.tallies)
	}
	if st = fresh(); !st.read(receipt("main", 9)) || len(st.tallies) != 1 {
		t.Errorf("the main timeline: %v", st.tallies)
	}
	if st = fresh(); !st.read(receipt("", 9)) || len(st.tallies) != 0 {
		t.Errorf("all: %v", st.tallies)
	}
	if st = fresh(); st.read(receipt("", 8)) {
		t.Error("a receipt in the midst leaves a number that only the database knows")
	}
}

func TestCountsByLevelAndThread(t *testing.T) {
	p := newPrefs("@u:a", nil, 1, []byte(`{"global":{"room":[{"rule_id":"!quiet:a","enabled":true,"actions":[]}],
		"override":[{"rule_id":"m","enabled":true,"actions":[],"conditions":[{"kind":"event_match","key":"room_id","pattern":"!mute:a"}]}]}}`), nil)
	plain := &readState{head: 10, notifySeq: 3, silent: 2, mentions: 1}
	threads := &readState{tallies: map[string]tally{"": {3, 1}, "$t": {2, 1}, "$read": {}}}
	for _, c := range []struct {
		st       *readState
		room     id.Room
		byThread bool
		want     tally
		threads  int
	}{
		{plain, "!r:a", false, tally{5, 1}, 0},
		{plain, "!quiet:a", false, tally{1, 1}, 0},
		{plain, "!mute:a", false, tally{}, 0},
		{threads, "!r:a", true, tally{3, 1}, 1},
		{threads, "!r:a", false, tally{5, 2}, 0},
		{threads, "!quiet:a", true, tally{1, 1}, 1},
		{threads, "!mute:a", true, tally{}, 0},
	} {
		u := c.st.counts(p, c.room, c.byThread)
		if u.tally != c.want || len(u.threads) != c.threads {
			t.Errorf("%s by thread %v: %+v", c.room, c.byThread, u)
		}
	}
}
