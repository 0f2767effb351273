package sync

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/pushrule"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/notify"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	"hanse/pkg/session"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
)

// countWorld is rooms with random events, and what random users have read of them.
type countWorld struct {
	t     *testing.T
	s     *Service
	r     *rand.Rand
	users []id.User
	rooms []*countRoom
	none  *notify.Room
	// memory says that nothing is stored, and that counts are made of what is in memory.
	memory bool
}

type countRoom struct {
	key      roomdb.RoomKey
	id       id.Room
	events   []*event.PDU // at log positions from 1 on
	redacted []bool
	seqs     []int64 // of events that notify by the default rules, from 0 on
	receipts map[id.User][]roomdb.Receipt
	joins    map[id.User]int64
}

const countEvents = 25

// content is that of a random event; roots are events that it may be in a thread of.
func (w *countWorld) content(roots []id.Event) (typ, content string) {
	switch w.r.IntN(12) {
	case 0:
		return "m.reaction", `{"m.relates_to":{"rel_type":"m.annotation","event_id":"$x","key":"x"}}`
	case 1:
		return "m.room.member", `{"membership":"join"}`
	case 2:
		return "m.room.message", `{"msgtype":"m.text","body":"* x","m.new_content":{"body":"x"},"m.relates_to":{"rel_type":"m.replace","event_id":"$x"}}`
	}
	body, more := "x", ""
	if w.r.IntN(4) == 0 {
		body = "the keyword is here"
	}
	if w.r.IntN(4) == 0 {
		more = fmt.Sprintf(`,"m.mentions":{"user_ids":[%q]}`, w.users[w.r.IntN(len(w.users))])
	}
	if len(roots) > 0 && w.r.IntN(2) == 0 {
		more += fmt.Sprintf(`,"m.relates_to":{"rel_type":"m.thread","event_id":%q}`, roots[w.r.IntN(len(roots))])
	}
	kind := "m.text"
	if w.r.IntN(6) == 0 {
		kind = "m.notice"
	}
	return "m.room.message", fmt.Sprintf(`{"msgtype":%q,"body":%q%s}`, kind, body, more)
}

// room makes a room with events and receipts.
func (w *countWorld) room(nid int64) *countRoom {
	w.t.Helper()
	c := &countRoom{key: roomdb.RoomKey{NID: nid}, id: id.Room(fmt.Sprintf("!%d:a", nid)), seqs: []int64{0},
		receipts: make(map[id.User][]roomdb.Receipt), joins: make(map[id.User]int64)}
	rules, _ := roomversion.Get("11")
	exec := func(sql string, args ...any) {
		w.t.Helper()
		if w.memory {
			return
		}
		if _, err := w.s.shards.For(0).Exec(w.t.Context(), sql, args...); err != nil {
			w.t.Fatal(err)
		}
	}
	exec(`INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth) VALUES (0, $1, $2, '11', 0, '{}', 1)`, nid, string(c.id))
	var nids, ords, seqs []int64
	var ids, types, senders, jsons, mentioned []string
	var mentionedAt []int64
	var states, redacted []*string
	var roots []id.Event
	for ord := int64(1); ord <= countEvents; ord++ {
		typ, content := w.content(roots)
		sender := w.users[w.r.IntN(len(w.users))]
		eventID := fmt.Sprintf("$%d-%d", nid, ord)
		key := ""
		var stateKey *string
		if typ == "m.room.member" {
			k := string(sender)
			stateKey, key = &k, fmt.Sprintf(`"state_key":%q,`, k)
		}
		raw := fmt.Sprintf(`{"auth_events":[],"content":%s,"depth":1,"hashes":{"sha256":"x"},"origin_server_ts":1,"prev_events":[],"room_id":%q,"sender":%q,"signatures":{},%s"type":%q}`,
			content, c.id, sender, key, typ)
		e, err := event.ParseTrusted([]byte(raw), id.Event(eventID), rules)
		if err != nil {
			w.t.Fatal(err)
		}
		gone := w.r.IntN(8) == 0
		seq := c.seqs[len(c.seqs)-1]
		if notify.JudgeAll(pushrule.NewView(e), e, w.none).Notify {
			seq++
		}
		c.events, c.redacted, c.seqs = append(c.events, e), append(c.redacted, gone), append(c.seqs, seq)
		if typ == "m.room.message" && len(roots) < 3 && w.r.IntN(4) == 0 && notify.ThreadOf(e) == "" {
			roots = append(roots, e.ID)
		}
		var by *string
		if gone {
			one := "1"
			by = &one
		}
		nids, ords, seqs = append(nids, nid<<10|ord), append(ords, ord), append(seqs, seq)
		ids, types, senders, jsons = append(ids, eventID), append(types, typ), append(senders, string(sender)), append(jsons, raw)
		states, redacted = append(states, stateKey), append(redacted, by)
		if pushrule.MayMention(e) {
			for _, u := range w.users {
				if u != sender && strings.Contains(content, fmt.Sprintf(`"user_ids":[%q]`, u)) {
					mentioned, mentionedAt = append(mentioned, string(u)), append(mentionedAt, ord)
				}
			}
		}
	}
	exec(`INSERT INTO event (part, room_nid, event_nid, event_id, ord, type, state_key, sender, depth, origin_ts, sid, flags, auth, prev, json, notify_seq, redacted_by)
		SELECT 0, $1, e.nid, e.id, e.ord, e.typ, e.key, e.sender, 1, 1, 0, 0, '{}', '{}', convert_to(e.json, 'UTF8'), e.seq, e.gone::bigint
		FROM unnest($2::bigint[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bigint[], $10::text[])
			AS e (nid, id, ord, typ, key, sender, json, seq, gone)`, nid, nids, ids, ords, types, states, senders, jsons, seqs, redacted)
	exec(`INSERT INTO mention (part, room_nid, user_id, ord) SELECT 0, $1, m.u, m.o FROM unnest($2::text[], $3::bigint[]) AS m (u, o)`, nid, mentioned, mentionedAt)
	var who, kinds, threads []string
	var at, read []int64
	for _, u := range w.users {
		c.joins[u] = w.r.Int64N(5)
		for _, thread := range append([]id.Event{"", "", "main", roomdb.MutedPlain}, roots...) {
			if w.r.IntN(3) > 0 {
				continue
			}
			ord := 1 + w.r.Int64N(countEvents)
			kind := []string{"m.read", "m.read.private"}[w.r.IntN(2)]
			if slices.ContainsFunc(c.receipts[u], func(o roomdb.Receipt) bool { return o.Type == kind && o.Thread == string(thread) }) {
				continue
			}
			if thread == roomdb.MutedPlain && slices.ContainsFunc(c.receipts[u], func(o roomdb.Receipt) bool { return o.Thread == string(thread) }) {
				continue
			}
			c.receipts[u] = append(c.receipts[u], roomdb.Receipt{Type: kind, Thread: string(thread), Ord: ord, NotifySeq: c.seqs[ord]})
			who, kinds, threads = append(who, string(u)), append(kinds, kind), append(threads, string(thread))
			at, read = append(at, ord), append(read, c.seqs[ord])
		}
	}
	exec(`INSERT INTO receipt (part, room_nid, user_id, type, thread_id, event_id, ord, notify_seq, ts, pos)
		SELECT 0, $1, r.u, r.k, r.t, '$x', r.o, r.n, 1, 1 FROM unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[]) AS r (u, k, t, o, n)`,
		nid, who, kinds, threads, at, read)
	if !w.memory {
		w.s.tail.watch(0, nid, c.id)
	}
	return c
}

// reader is a user with rules.
type reader struct {
	prefs   *prefs
	program *pushrule.Program
}

func (w *countWorld) reader(user id.User) *reader {
	var override, room, content []string
	for _, c := range w.rooms {
		switch w.r.IntN(6) {
		case 0:
			override = append(override, fmt.Sprintf(`{"rule_id":%q,"enabled":true,"actions":[],"conditions":[{"kind":"event_match","key":"room_id","pattern":%q}]}`, c.id, c.id))
		case 1:
			room = append(room, fmt.Sprintf(`{"rule_id":%q,"enabled":true,"actions":[]}`, c.id))
		}
	}
	if w.r.IntN(3) == 0 {
		content = append(content, `{"rule_id":"keyword","enabled":true,"pattern":"keyword","actions":["notify",{"set_tweak":"highlight"}]}`)
	}
	if w.r.IntN(8) == 0 {
		override = append(override, `{"rule_id":".m.rule.master","default":true,"enabled":true,"actions":[]}`)
	}
	rules := fmt.Sprintf(`{"global":{"override":[%s],"room":[%s],"content":[%s]}}`, strings.Join(override, ","), strings.Join(room, ","), strings.Join(content, ","))
	ignore := ""
	if w.r.IntN(3) == 0 {
		ignore = fmt.Sprintf(`{"ignored_users":{%q:{}}}`, w.users[w.r.IntN(len(w.users))])
	}
	p := newPrefs(user, nil, 1, []byte(rules), []byte(ignore))
	for range w.r.IntN(3) {
		since := w.r.Int64N(countEvents)
		p.muted = append(p.muted, userdb.MutedTime{Since: []int64{since}, Until: []int64{since + 1 + w.r.Int64N(6)}})
	}
	set, err := pushrule.Parse([]byte(rules), user)
	if err != nil {
		w.t.Fatal(err)
	}
	return &reader{p, pushrule.Compile(set, user)}
}

// literal counts as the specification says it, event by event (client-server API, "Receiving notifications" and "Threaded read
// receipts"), by thread.
func (w *countWorld) literal(c *countRoom, who *reader) map[string]tally {
	user := who.prefs.User
	counts := make(map[string]tally)
	for i, e := range c.events {
		ord, thread := int64(i+1), notify.ThreadOf(e)
		read, plain := ord <= c.joins[user], false
		for _, r := range c.receipts[user] {
			own := r.Thread == "main" && thread == "" || r.Thread != "" && r.Thread == thread
			read = read || ord <= r.Ord && (r.Thread == "" || own)
			plain = plain || ord <= r.Ord && r.Thread == roomdb.MutedPlain
		}
		for _, m := range who.prefs.muted {
			read = read || ord > m.Since[0] && ord <= m.Until[0]
		}
		if read || c.redacted[i] || e.Sender == user || who.prefs.ignored.Has(e.Sender) {
			continue
		}
		o := who.program.Evaluate(pushrule.NewView(e), pushrule.Context{User: user, MayNotify: func(string) bool { return false }})
		if !o.Notify || plain && !o.Highlight {
			continue
		}
		n := counts[thread]
		n.Notifications++
		if o.Highlight {
			n.Highlights++
		}
		counts[thread] = n
	}
	return counts
}

// Client-server API, "Receiving notifications", "Threaded read receipts", "Push Rules" (MSC4102, muted times): over random rooms with
// messages, notices, mentions, threads, edits, redactions and memberships, and random readers with receipts of all kinds, ignored
// users, rules for rooms, keywords and muted times, the counts of /sync, with and without threads, and those of badges are what a
// literal evaluation of each event gives.
func TestCountsAreLiteral(t *testing.T) {
	shards := pgtest.New(t)
	w := newCountWorld(t, 1)
	w.s = &Service{shards: shards, rooms: roomdb.Open(shards, state.NewStore(state.DefaultConfig(), nil), roomdb.DefaultConfig(), nil), notifying: newNotifyingRooms(1<<20, nil)}
	w.s.tail, _ = newTestTail(t, 1<<20, countEvents)
	for nid := range int64(60) {
		w.rooms = append(w.rooms, w.room(nid+1))
	}
	for range 2 {
		for _, user := range w.users {
			w.compare(w.reader(user))
		}
	}
}

func newCountWorld(t *testing.T, seed uint64) *countWorld {
	return &countWorld{t: t, r: rand.New(rand.NewPCG(seed, 7)), users: []id.User{"@a:a", "@b:a", "@c:a", "@d:a"}, none: new(notify.Room)}
}

// The same with nothing stored: what is counted one by one, and what is subtracted, is what a literal evaluation gives. HANSE_CASES says
// how many cases there are.
func TestCountsInMemoryAreLiteral(t *testing.T) {
	cases, err := strconv.Atoi(os.Getenv("HANSE_CASES"))
	if err != nil {
		cases = 20_000
	}
	done, notifying := 0, 0
	for round := uint64(1); done < cases && !t.Failed(); round++ {
		w := newCountWorld(t, round)
		w.memory = true
		for nid := range int64(20) {
			w.rooms = append(w.rooms, w.room(nid+1))
		}
		for range 5 {
			for _, user := range w.users {
				who := w.reader(user)
				for _, c := range w.rooms {
					want := w.literal(c, who)
					for thread, got := range w.counted(c, who) {
						if want[thread] != got {
							t.Errorf("round %d, %s in %s, thread %q: %+v, literally %+v", round, user, c.id, thread, got, want[thread])
						}
					}
					done++
					notifying += min(1, len(want))
				}
			}
		}
	}
	t.Logf("%d cases, in %d something is unread", done, notifying)
	if notifying < done/4 {
		t.Error("in most cases nothing is unread")
	}
}

// counted is what is counted of a room without PostgreSQL: one by one, and, where that is enough, by subtraction.
func (w *countWorld) counted(c *countRoom, who *reader) map[string]tally {
	rules, muted := &who.prefs.Rules, who.prefs.muted
	read := notify.Read{Ord: c.joins[rules.User], NotifySeq: c.seqs[c.joins[rules.User]]}
	read.Take(c.receipts[rules.User])
	level := rules.Level(c.id)
	if rules.Own() {
		level = notify.All
	}
	one := make(map[string]notify.Count)
	var mentions, silent int64
	for i, e := range c.events {
		ord := int64(i + 1)
		if ord <= read.Ord {
			continue
		}
		stored := &roomdb.Event{PDU: e, Ord: ord}
		if c.redacted[i] {
			stored.RedactedBy = 1
		}
		read.Count(rules, muted, w.none, stored, one)
		own := e.Sender == rules.User || rules.Ignored.Has(e.Sender) || c.redacted[i]
		if own && c.seqs[ord] > c.seqs[ord-1] {
			silent++
		}
		if !own && pushrule.MayMention(e) && strings.Contains(string(e.Content), fmt.Sprintf(`"user_ids":[%q]`, rules.User)) {
			mentions++
		}
	}
	out := map[string]tally{"": {}}
	var all notify.Count
	for thread, n := range one {
		n = n.Cut(level)
		out[thread] = tally(n)
		all.Notifications += n.Notifications
		all.Highlights += n.Highlights
	}
	st := &readState{head: c.seqs[countEvents], notifySeq: read.NotifySeq, silent: silent, mentions: mentions}
	if !rules.Own() && !read.OneByOne(rules, muted, 0, countEvents) {
		if got := st.counts(who.prefs, c.id, false); got.tally != tally(all) {
			w.t.Errorf("%s in %s: %+v by subtraction, %+v one by one", rules.User, c.id, got.tally, all)
		}
	}
	return out
}

func (w *countWorld) compare(who *reader) {
	t, user := w.t, who.prefs.User
	var members []*userdb.Membership
	var joined []notify.Joined
	for _, c := range w.rooms {
		members = append(members, &userdb.Membership{Room: c.id, RoomNID: c.key.NID, JoinPos: c.joins[user]})
		joined = append(joined, notify.Joined{RoomKey: c.key, Room: c.id, JoinPos: c.joins[user]})
	}
	badges, err := notify.Unread(t.Context(), w.s.rooms, &who.prefs.Rules, who.prefs.muted, joined)
	if err != nil {
		t.Fatal(err)
	}
	for _, byThread := range []bool{false, true} {
		p := &asker{who: &session.Identity{User: user}, byThread: byThread}
		states, err := w.s.readStates(t.Context(), p, who.prefs, members, func(uint32) int64 { return countEvents })
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range w.rooms {
			want := w.literal(c, who)
			var all tally
			for _, n := range want {
				all.Notifications += n.Notifications
				all.Highlights += n.Highlights
			}
			got := states[c.key].counts(who.prefs, c.id, byThread)
			switch {
			case byThread:
				if got.tally != want[""] {
					t.Errorf("%s in %s: main %+v, literally %+v", user, c.id, got.tally, want[""])
				}
				for thread, n := range want {
					if thread != "" && got.threads[thread] != n {
						t.Errorf("%s in %s, thread %s: %+v, literally %+v", user, c.id, thread, got.threads[thread], n)
					}
				}
			case got.tally != all:
				t.Errorf("%s in %s: %+v, literally %+v (own %v, level %d, plain %d)", user, c.id, got.tally, all, who.prefs.Own(), who.prefs.Level(c.id), states[c.key].plain)
			case tally(badges[c.key]) != all:
				t.Errorf("%s in %s: the badge counts %+v, literally %+v", user, c.id, badges[c.key], all)
			}
		}
	}
}
