package app_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tidwall/gjson"
)

// Relations through the client API of a cluster of two processes.
func TestRelations(t *testing.T) {
	w := newWorld(t)
	for name, test := range map[string]func(*testing.T, *world){
		"forms": testRelationForms, "recursion": testRelationRecursion, "replacements": testReplacements, "threads": testThreads,
		"list of threads": testThreadList, "participated": testThreadsParticipated, "references": testReferences, "poll": testPoll,
		"duplicate annotations": testDuplicateAnnotations, "annotations at once": testAnnotationsAtOnce, "refusals": testRelationRefusals,
		"ignored users": testRelationsIgnored, "who left": testRelationsLeft, "filters": testRelationFilters, "many edits": testManyEdits,
		"sync": testRelationsInSync, "sliding sync": testRelationsInSlidingSync,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, w)
		})
	}
}

func relation(typ, event string, more object) object {
	content := object{"m.relates_to": object{"rel_type": typ, "event_id": event}}
	for k, v := range more {
		content[k] = v
	}
	return content
}

func (p *person) relate(room, typ, relType, event string, more object) string {
	p.t.Helper()
	return p.send(room, typ, relation(relType, event, more))
}

func (p *person) reply(room, root, text string) string {
	p.t.Helper()
	return p.relate(room, "m.room.message", "m.thread", root, object{"msgtype": "m.text", "body": text})
}

func (p *person) edit(room, event, text string) string {
	p.t.Helper()
	return p.relate(room, "m.room.message", "m.replace", event, object{"msgtype": "m.text", "body": "* " + text,
		"m.new_content": object{"msgtype": "m.text", "body": text}})
}

func (p *person) react(room, event, key string) *reply {
	p.t.Helper()
	return p.do("PUT", in(room, "send", "m.reaction", fmt.Sprintf("t%d", txns.Add(1))),
		object{"m.relates_to": object{"rel_type": "m.annotation", "event_id": event, "key": key}})
}

func (p *person) redacts(room, event string) string {
	p.t.Helper()
	return p.do("PUT", in(room, "redact", event, fmt.Sprintf("t%d", txns.Add(1))), object{}).ok().str("event_id")
}

// related are the ids of a page of relations.
func (p *person) related(room, event, rest string) []string {
	p.t.Helper()
	return p.do("GET", under(v1, room, "relations", event)+rest, nil).ok().texts("chunk.#.event_id")
}

// relatedPages are the events of all pages of relations.
func (p *person) relatedPages(room, event, query string) (events []string) {
	p.t.Helper()
	from := ""
	for range 100 {
		a := p.do("GET", under(v1, room, "relations", event)+query+from, nil).ok()
		if (a.str("prev_batch") != "") != (from != "") {
			p.t.Errorf("prev_batch: %s", a.raw)
		}
		events = append(events, a.texts("chunk.#.event_id")...)
		if a.str("next_batch") == "" {
			return events
		}
		from = "&from=" + url.QueryEscape(a.str("next_batch"))
	}
	p.t.Fatalf("pages without an end: %v", events)
	return nil
}

// bundles are what each endpoint that gives an event says of those that relate to it.
func (p *person) bundles(room, event string) map[string]gjson.Result {
	p.t.Helper()
	found := map[string]gjson.Result{
		"/event":   p.do("GET", in(room, "event", event), nil).ok().get("unsigned.m\\.relations"),
		"/context": p.do("GET", in(room, "context", event), nil).ok().get("event.unsigned.m\\.relations"),
	}
	for _, e := range p.page(room, "?dir=b&limit=100").get("chunk").Array() {
		if e.Get("event_id").Str == event {
			found["/messages"] = e.Get("unsigned.m\\.relations")
		}
	}
	return found
}

// bundle is what they all say.
func (p *person) bundle(room, event string) gjson.Result {
	p.t.Helper()
	all := p.bundles(room, event)
	one := all["/event"]
	if len(all) != 3 {
		p.t.Errorf("%s is not in /messages", event)
	}
	for where, b := range all {
		for _, path := range []string{"m\\.replace.event_id", "m\\.thread.count", "m\\.thread.latest_event.event_id", "m\\.thread.current_user_participated", "m\\.reference.chunk"} {
			if b.Get(path).Raw != one.Get(path).Raw {
				p.t.Errorf("%s says %s, and /event %s", where, b.Raw, one.Raw)
			}
		}
	}
	return one
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// Client-server API, "Relationships API": the three forms, both directions, and pages of any size.
func testRelationForms(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	root := anna.say(room, "root")
	a := bert.react(room, root, "👍").ok().str("event_id")
	b := bert.reply(room, root, "reply")
	c := anna.edit(room, root, "edited")
	d := anna.relate(room, "org.example.thing", "m.thread", root, nil)
	anna.say(room, "not related")
	anna.send(room, "m.room.message", object{"msgtype": "m.text", "body": "x", "m.relates_to": object{"m.in_reply_to": object{"event_id": root}}})
	all := []string{a, b, c, d}
	for query, want := range map[string][]string{
		"":                                  reversed(all),
		"/m.thread":                         {d, b},
		"/m.thread/m.room.message":          {b},
		"/m.annotation/m.reaction":          {a},
		"/m.annotation/m.room.message":      {},
		"/m.replace":                        {c},
		"/org.example.none":                 {},
		"?dir=f":                            all,
		"?org.matrix.msc3715.dir=f":         all,
		"/m.thread?dir=f":                   {b, d},
		"?limit=2":                          {d, c},
		"?limit=2&dir=f":                    {a, b},
		"?limit=0":                          {},
		"/m.thread/m.room.message?limit=99": {b},
	} {
		if got := bert.related(room, root, query); !slices.Equal(got, want) && len(got)+len(want) > 0 {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	for _, limit := range []int{1, 2, 3, 100} {
		same(t, "backwards", bert.relatedPages(room, root, fmt.Sprintf("?limit=%d", limit)), reversed(all))
		same(t, "forwards", bert.relatedPages(room, root, fmt.Sprintf("?limit=%d&dir=f", limit)), all)
	}
	// From one page to the other, and tokens of /messages and /sync.
	first := bert.do("GET", under(v1, room, "relations", root)+"?limit=2", nil).ok()
	between := url.QueryEscape(first.str("next_batch"))
	same(t, "to", bert.related(room, root, "?to="+between), []string{d, c})
	same(t, "from and to", bert.related(room, root, "?from="+between+"&to="+between), nil)
	end := bert.page(room, "?dir=b&limit=1").str("start")
	same(t, "a token of /messages", bert.related(room, root, "?from="+end), reversed(all))
	bert.everywhere(room, d)
	since := bert.do("GET", v3+"/sync", nil).ok().str("next_batch")
	late := anna.reply(room, root, "late")
	same(t, "from a token of /sync", bert.related(room, root, "?from="+since), reversed(all))
	same(t, "to a token of /sync", bert.related(room, root, "?to="+since), []string{late})
	// By the path of before.
	same(t, "unstable", bert.do("GET", under("/_matrix/client/unstable", room, "relations", root, "m.replace"), nil).ok().texts("chunk.#.event_id"), []string{c})
	// What is redacted relates to nothing any more; the event that others relate to may be redacted.
	anna.redacts(room, c)
	bert.redacts(room, b)
	same(t, "after redactions", bert.related(room, root, ""), []string{late, d, a})
	anna.redacts(room, root)
	same(t, "after the redaction of the parent", bert.related(room, root, ""), []string{late, d, a})
	// Errors.
	stranger := w.register(t, "stranger")
	stranger.do("GET", under(v1, room, "relations", root), nil).fails(403, "M_FORBIDDEN")
	bert.do("GET", under(v1, room, "relations", "$none"), nil).fails(404, "M_NOT_FOUND")
	bert.do("GET", under(v1, room, "relations", "none"), nil).fails(404, "M_NOT_FOUND")
	bert.do("GET", under(v1, "!none:hanse.test", "relations", root), nil).fails(403, "M_FORBIDDEN")
	other := bert.create(object{})
	bert.do("GET", under(v1, other, "relations", root), nil).fails(404, "M_NOT_FOUND")
	for _, query := range []string{"?from=x", "?to=x", "?limit=x", "?limit=-1", "?dir=x", "?recurse=x"} {
		bert.do("GET", under(v1, room, "relations", root)+query, nil).fails(400, "M_INVALID_PARAM")
	}
}

// Client-server API, "Relationships API", recurse: the example of MSC3981.
func testRelationRecursion(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	a := anna.say(room, "A")
	b := anna.reply(room, a, "B")
	anna.say(room, "C")
	d := anna.edit(room, a, "D")
	e := bert.react(room, b, "E").ok().str("event_id")
	anna.say(room, "F")
	g := anna.reply(room, a, "G")
	for query, want := range map[string][]string{
		"/m.thread?dir=f":                        {b, g},
		"?dir=f&recurse=true":                    {b, d, e, g},
		"?dir=f&recurse=false":                   {b, d, g},
		"?dir=f&org.matrix.msc3981.recurse=true": {b, d, e, g},
		"?recurse=true&limit=2":                  {g, e},
		"/m.annotation/m.reaction?recurse=true":  {e},
		"/m.annotation?recurse=false":            {},
		"/m.replace/m.room.message?recurse=true": {d},
	} {
		if got := bert.related(room, a, query); !slices.Equal(got, want) && len(got)+len(want) > 0 {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	same(t, "pages", bert.relatedPages(room, a, "?recurse=true&limit=1"), []string{g, e, d, b})
	answer := bert.do("GET", under(v1, room, "relations", a)+"?recurse=true", nil).ok()
	if answer.get("recursion_depth").Int() < 3 {
		t.Errorf("recursion_depth: %s", answer.raw)
	}
	if answer = bert.do("GET", under(v1, room, "relations", a), nil).ok(); answer.get("recursion_depth").Exists() {
		t.Errorf("recursion_depth without recursion: %s", answer.raw)
	}
	// Three levels, and no more.
	last, chain := a, []string{}
	for range 5 {
		last = anna.relate(room, "org.example.link", "org.example.link", last, nil)
		chain = append(chain, last)
	}
	same(t, "a chain", bert.related(room, a, "/org.example.link?recurse=true&dir=f"), chain[:3])
}

// Client-server API, "Server-side aggregation of m.replace relationships" and "Validity of replacement events" (MSC3925).
func testReplacements(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	original := anna.say(room, "one")
	if b := anna.bundle(room, original); b.Exists() {
		t.Errorf("before: %s", b.Raw)
	}
	two := anna.edit(room, original, "two")
	three := anna.edit(room, original, "three")
	for _, p := range []*person{anna, bert} {
		b := p.bundle(room, original)
		if b.Get("m\\.replace.event_id").Str != three || b.Get("m\\.replace.content.m\\.new_content.body").Str != "three" ||
			b.Get("m\\.replace.sender").Str != anna.id || b.Get("m\\.replace.room_id").Str != room || !b.Get("m\\.replace.unsigned.age").Exists() {
			t.Errorf("edit: %s", b.Raw)
		}
	}
	if got := bert.do("GET", in(room, "event", original), nil).ok().str("content.body"); got != "one" {
		t.Errorf("the content is %q", got) // it is left as it is
	}
	// Not valid: of others, of another type, without new content, of an edit, of state.
	bert.edit(room, original, "by another")
	anna.relate(room, "m.sticker", "m.replace", original, object{"m.new_content": object{}})
	anna.relate(room, "m.room.message", "m.replace", original, object{"body": "none"})
	anna.edit(room, three, "of an edit")
	if got := bert.bundle(room, original).Get("m\\.replace.event_id").Str; got != three {
		t.Errorf("the edit is %s", got)
	}
	if b := bert.bundle(room, three); b.Exists() {
		t.Errorf("of an edit: %s", b.Raw)
	}
	topic := anna.set(room, "m.room.topic", "", object{"topic": "x"})
	anna.relate(room, "m.room.topic", "m.replace", topic, object{"m.new_content": object{"topic": "y"}})
	if b := bert.bundle(room, topic); b.Exists() {
		t.Errorf("of state: %s", b.Raw)
	}
	// Encrypted ones have their new content inside.
	secret := anna.send(room, "m.room.encrypted", object{"ciphertext": "x"})
	edited := anna.relate(room, "m.room.encrypted", "m.replace", secret, object{"ciphertext": "y"})
	if got := bert.bundle(room, secret).Get("m\\.replace.event_id").Str; got != edited {
		t.Errorf("the edit of an encrypted event is %q", got)
	}
	// "Redactions of edited events".
	anna.redacts(room, three)
	if got := bert.bundle(room, original).Get("m\\.replace.event_id").Str; got != two {
		t.Errorf("after a redaction the edit is %q", got)
	}
	anna.redacts(room, original)
	if b := bert.bundle(room, original); b.Get("m\\.replace").Exists() {
		t.Errorf("of a redacted event: %s", b.Raw)
	}
}

// Client-server API, "Server-side aggregation of m.thread relationships".
func testThreads(t *testing.T, w *world) {
	anna, bert, carl := w.register(t, "anna"), w.register(t, "bert"), w.register(t, "carl")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	carl.join(room)
	root := anna.say(room, "root")
	check := func(what string, p *person, count int64, latest string, in bool) {
		t.Helper()
		b := p.bundle(room, root).Get("m\\.thread")
		if b.Get("count").Int() != count || b.Get("latest_event.event_id").Str != latest || b.Get("current_user_participated").Bool() != in ||
			b.Get("latest_event.room_id").Str != room {
			t.Errorf("%s: %s, want %d events, %s, %t", what, b.Raw, count, latest, in)
		}
	}
	first := bert.reply(room, root, "1")
	second := bert.reply(room, root, "2")
	check("the root's sender", anna, 2, second, true)
	check("who replied", bert, 2, second, true)
	check("another one", carl, 2, second, false)
	edit := bert.edit(room, second, "two")
	b := carl.bundle(room, root).Get("m\\.thread.latest_event.unsigned.m\\.relations.m\\.replace")
	if b.Get("event_id").Str != edit {
		t.Errorf("the edit of the latest reply: %s", b.Raw)
	}
	// An edit of a reply is no reply. Redactions lower the count.
	check("with an edit", carl, 2, second, false)
	bert.redacts(room, second)
	check("without the latest", carl, 1, first, false)
	third := carl.reply(room, root, "3")
	check("one more", carl, 2, third, true)
	carl.redacts(room, third)
	check("taken back", carl, 1, first, false)
	anna.redacts(room, root)
	check("a redacted root", bert, 1, first, true)
	bert.redacts(room, first)
	if b := carl.bundle(room, root); b.Get("m\\.thread").Exists() {
		t.Errorf("without replies: %s", b.Raw)
	}
}

// threadPages are the roots of all pages.
func (p *person) threadPages(room, query string) (roots []string) {
	p.t.Helper()
	from := ""
	for range 100 {
		a := p.do("GET", under(v1, room, "threads")+query+from, nil).ok()
		for _, e := range a.get("chunk").Array() {
			if !e.Get("unsigned.m\\.relations.m\\.thread.latest_event.event_id").Exists() {
				p.t.Errorf("a root without its thread: %s", e.Raw)
			}
			roots = append(roots, e.Get("event_id").Str)
		}
		if a.str("next_batch") == "" {
			return roots
		}
		from = "&from=" + url.QueryEscape(a.str("next_batch"))
	}
	p.t.Fatalf("pages without an end: %v", roots)
	return nil
}

// Client-server API, "Querying threads in a room": the roots, those with the newest replies first.
func testThreadList(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	same(t, "no threads", anna.threadPages(room, "?limit=5"), nil)
	var roots []string
	replies := map[string]string{}
	for i := range 5 {
		root := anna.say(room, fmt.Sprint("root ", i))
		roots = append(roots, root)
		replies[root] = bert.reply(room, root, "reply")
	}
	for _, limit := range []int{1, 2, 5, 100} {
		same(t, "threads", bert.threadPages(room, fmt.Sprintf("?limit=%d", limit)), reversed(roots))
	}
	again := anna.reply(room, roots[1], "again")
	want := []string{roots[1], roots[4], roots[3], roots[2], roots[0]}
	same(t, "after a reply", bert.threadPages(room, "?limit=2&include=all"), want)
	same(t, "by the unstable path", bert.do("GET", under("/_matrix/client/unstable/org.matrix.msc3856", room, "threads"), nil).ok().texts("chunk.#.event_id"), want)
	anna.redacts(room, again)
	same(t, "after its redaction", bert.threadPages(room, "?limit=2"), reversed(roots))
	bert.redacts(room, replies[roots[4]])
	same(t, "without the last reply", bert.threadPages(room, "?limit=2"), reversed(roots)[1:])
	w.register(t, "stranger").do("GET", under(v1, room, "threads"), nil).fails(403, "M_FORBIDDEN")
	for _, query := range []string{"?from=x", "?limit=x", "?limit=0", "?limit=-1", "?include=x"} {
		bert.do("GET", under(v1, room, "threads")+query, nil).fails(400, "M_INVALID_PARAM")
	}
}

// Client-server API, "Querying threads in a room", include=participated.
func testThreadsParticipated(t *testing.T, w *world) {
	anna, bert, carl := w.register(t, "anna"), w.register(t, "bert"), w.register(t, "carl")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	carl.join(room)
	ofAnna, ofBert := anna.say(room, "root of anna"), bert.say(room, "root of bert")
	carl.reply(room, ofAnna, "x")
	carl.reply(room, ofBert, "x")
	mine := bert.reply(room, ofAnna, "mine")
	same(t, "anna", anna.threadPages(room, "?include=participated"), []string{ofAnna})
	same(t, "bert", bert.threadPages(room, "?include=participated"), []string{ofAnna, ofBert})
	same(t, "carl", carl.threadPages(room, "?include=participated&limit=1"), []string{ofAnna, ofBert})
	bert.redacts(room, mine)
	same(t, "bert, who took his reply back", bert.threadPages(room, "?include=participated"), []string{ofBert})
}

// Client-server API, "Server-side aggregation of m.reference".
func testReferences(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	room := anna.create(object{})
	event := anna.say(room, "x")
	one := anna.relate(room, "org.example.x", "m.reference", event, nil)
	two := anna.relate(room, "org.example.x", "m.reference", event, nil)
	refs := func() (ids []string) {
		for _, r := range anna.bundle(room, event).Get("m\\.reference.chunk.#.event_id").Array() {
			ids = append(ids, r.Str)
		}
		return ids
	}
	same(t, "references", refs(), []string{one, two})
	anna.redacts(room, one)
	same(t, "after a redaction", refs(), []string{two})
}

// MSC3381, "Responding to a poll" and "Closing/ending polls": votes and the end are found by their references.
func testPoll(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	for _, prefix := range []string{"m.poll.", "org.matrix.msc3381.poll."} {
		poll := anna.send(room, prefix+"start", object{"m.poll": object{"question": object{"m.text": list{}}, "answers": list{}}})
		var votes []string
		for _, p := range []*person{anna, bert, bert} {
			votes = append(votes, p.relate(room, prefix+"response", "m.reference", poll, object{"m.selections": list{"a"}}))
		}
		end := anna.relate(room, prefix+"end", "m.reference", poll, object{"m.text": list{}})
		same(t, "votes", anna.related(room, poll, "/m.reference/"+prefix+"response?dir=f"), votes)
		same(t, "the end", bert.related(room, poll, "/m.reference/"+prefix+"end"), []string{end})
		same(t, "both", bert.relatedPages(room, poll, "/m.reference?limit=2&dir=f"), append(votes, end))
	}
}

// Client-server API, "Avoiding duplicate annotations".
func testDuplicateAnnotations(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	event := anna.say(room, "x")
	first := anna.react(room, event, "👍").ok().str("event_id")
	anna.react(room, event, "👍").fails(400, "M_DUPLICATE_ANNOTATION")
	anna.react(room, event, "👎").ok()
	bert.react(room, event, "👍").ok()
	anna.relate(room, "org.example.reaction", "m.annotation", event, object{"m.relates_to": object{"rel_type": "m.annotation", "event_id": event, "key": "👍"}})
	anna.redacts(room, first)
	anna.react(room, event, "👍").ok()
	anna.react(room, event, "👍").fails(400, "M_DUPLICATE_ANNOTATION")
	// The same request is no second annotation.
	path := in(room, "send", "m.reaction", "the same")
	body := object{"m.relates_to": object{"rel_type": "m.annotation", "event_id": event, "key": "twice"}}
	if one, two := anna.do("PUT", path, body).ok().str("event_id"), anna.do("PUT", path, body).ok().str("event_id"); one != two {
		t.Errorf("%s and %s", one, two)
	}
	anna.react(room, event, strings.Repeat("k", 501)).fails(400, "M_UNKNOWN")
	anna.react(room, event, strings.Repeat("k", 500)).ok()
	// A reaction in the moment of the redaction of the one before.
	var wg sync.WaitGroup
	now := bert.react(room, event, "now").ok().str("event_id")
	wg.Go(func() { bert.do("PUT", in(room, "redact", now, "now"), object{}) })
	wg.Wait()
	bert.react(room, event, "now").ok()
}

// Of the same annotation at the same moment, through two workers, one is sent.
func testAnnotationsAtOnce(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	room := anna.create(object{})
	event := anna.say(room, "x")
	var wg sync.WaitGroup
	codes := make([]string, 16)
	for i := range codes {
		wg.Go(func() { codes[i] = anna.react(room, event, "👍").str("errcode") })
	}
	wg.Wait()
	slices.Sort(codes)
	if codes[0] != "" || codes[1] != "M_DUPLICATE_ANNOTATION" || codes[15] != "M_DUPLICATE_ANNOTATION" {
		t.Errorf("answers: %q", codes)
	}
	if got := anna.related(room, event, "?limit=100"); len(got) != 1 {
		t.Errorf("reactions: %v", got)
	}
}

// Client-server API, "Validation of m.thread relationships", and relations to what is not in the room.
func testRelationRefusals(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room, other := anna.create(object{"preset": "public_chat"}), anna.create(object{})
	bert.join(room)
	root, elsewhere := anna.say(room, "root"), anna.say(other, "elsewhere")
	threaded := anna.reply(room, root, "reply")
	send := func(p *person, content any) *reply {
		return p.do("PUT", in(room, "send", "m.room.message", fmt.Sprintf("t%d", txns.Add(1))), content)
	}
	send(bert, relation("m.thread", threaded, nil)).fails(400, "M_UNKNOWN")
	send(bert, relation("m.thread", bert.react(room, root, "x").ok().str("event_id"), nil)).fails(400, "M_UNKNOWN")
	send(bert, relation("m.thread", elsewhere, nil)).fails(400, "M_UNKNOWN")
	send(bert, relation("m.reference", elsewhere, nil)).fails(400, "M_UNKNOWN")
	send(bert, relation("m.replace", "$unknown", nil)).fails(400, "M_UNKNOWN")
	// Others hear nothing of which events there are.
	send(w.register(t, "stranger"), relation("m.thread", root, nil)).fails(403, "M_FORBIDDEN")
	// A plain reply is no relation, and a thread may begin on one.
	plain := anna.send(room, "m.room.message", object{"body": "x", "m.relates_to": object{"m.in_reply_to": object{"event_id": root}}})
	bert.reply(room, plain, "a thread")
	// What has not the form of a relation is none.
	for _, malformed := range []any{"x", list{}, object{"rel_type": 5, "event_id": root}, object{"rel_type": "m.thread"}, object{"event_id": root},
		object{"rel_type": "", "event_id": root}, object{"rel_type": "m.thread", "event_id": "x"}, object{"rel_type": strings.Repeat("x", 256), "event_id": root}} {
		send(bert, object{"m.relates_to": malformed}).ok()
	}
	same(t, "relations", bert.related(room, root, "/m.thread"), []string{threaded})
}

// Client-server API, "Ignoring Users" and "Aggregations of child events": what ignored users sent does not count.
func testRelationsIgnored(t *testing.T, w *world) {
	anna, bert, carl := w.register(t, "anna"), w.register(t, "bert"), w.register(t, "carl")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	carl.join(room)
	root, ofBert, onlyBerts := anna.say(room, "root"), bert.say(room, "root of bert"), anna.say(room, "only berts")
	first := carl.reply(room, root, "1")
	second := bert.reply(room, root, "2")
	carl.reply(room, ofBert, "x")
	bert.reply(room, onlyBerts, "x")
	bert.relate(room, "org.example.x", "m.reference", root, nil)
	anna.do("PUT", v3+"/user/"+url.PathEscape(anna.id)+"/account_data/m.ignored_user_list", object{"ignored_users": object{bert.id: object{}}}).ok()
	b := anna.bundle(room, root)
	if b.Get("m\\.thread.count").Int() != 1 || b.Get("m\\.thread.latest_event.event_id").Str != first || b.Get("m\\.reference").Exists() {
		t.Errorf("who ignores: %s", b.Raw)
	}
	b = carl.bundle(room, root)
	if b.Get("m\\.thread.count").Int() != 2 || b.Get("m\\.thread.latest_event.event_id").Str != second || !b.Get("m\\.reference").Exists() {
		t.Errorf("who does not: %s", b.Raw)
	}
	same(t, "relations", anna.related(room, root, ""), []string{first})
	// A root of an ignored user is told as if it was redacted; a thread that has nothing else is not.
	list := anna.do("GET", under(v1, room, "threads")+"?limit=50", nil).ok()
	same(t, "threads", list.texts("chunk.#.event_id"), []string{ofBert, root})
	if list.get("chunk.0.content.body").Exists() || !list.get("chunk.1.content.body").Exists() {
		t.Errorf("threads: %s", list.raw)
	}
	same(t, "threads of who ignores nobody", carl.threadPages(room, "?limit=50"), []string{onlyBerts, ofBert, root})
}

// Client-server API, "Room history visibility": who left sees no relations of later.
func testRelationsLeft(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	root, edited := anna.say(room, "root"), anna.say(room, "one")
	reply := anna.reply(room, root, "then")
	edit := anna.edit(room, edited, "two")
	bert.do("POST", in(room, "leave"), object{}).ok()
	anna.reply(room, root, "now")
	anna.edit(room, edited, "three")
	same(t, "relations", bert.related(room, root, ""), []string{reply})
	if got := bert.bundle(room, root).Get("m\\.thread.latest_event.event_id").Str; got != reply {
		t.Errorf("the latest reply is %q", got)
	}
	if got := bert.bundle(room, edited).Get("m\\.replace.event_id").Str; got != edit {
		t.Errorf("the edit is %q", got)
	}
}

// MSC3440 and MSC3874: filters of relations.
func testRelationFilters(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	bert.everywhere(room, anna.send(room, "org.example.zero", object{}))
	since := bert.do("GET", v3+"/sync", nil).ok().str("next_batch")
	one, two := anna.say(room, "one"), anna.say(room, "two")
	inOne := bert.reply(room, one, "x")
	onTwo := anna.react(room, two, "x").ok().str("event_id")
	for filter, want := range map[string][]string{
		`"related_by_rel_types":["m.thread"]`:                                                     {one},
		`"related_by_rel_types":["m.thread","m.annotation"]`:                                      {two, one},
		`"related_by_senders":["` + anna.id + `"]`:                                                {two},
		`"related_by_senders":["` + anna.id + `"],"related_by_rel_types":["m.thread"]`:            {},
		`"related_by_rel_types":[]`:                                                               {},
		`"rel_types":["m.thread"]`:                                                                {inOne},
		`"org.matrix.msc3874.rel_types":["m.annotation"]`:                                         {onTwo},
		`"types":["m.room.message"],"not_rel_types":["m.thread"]`:                                 {two, one},
		`"types":["m.room.message","m.reaction"],"org.matrix.msc3874.not_rel_types":["m.thread"]`: {onTwo, two, one},
	} {
		got := bert.page(room, "?dir=b&limit=100&filter="+url.QueryEscape("{"+filter+"}")).texts("chunk.#.event_id")
		if !slices.Equal(got, want) && len(got)+len(want) > 0 {
			t.Errorf("%s: %v, want %v", filter, got, want)
		}
	}
	// The same of /sync, from a token on.
	bert.everywhere(room, onTwo)
	for filter, want := range map[string][]string{
		`"related_by_rel_types":["m.thread"]`: {one}, `"related_by_senders":["` + anna.id + `"]`: {two}, `"rel_types":["m.thread"]`: {inOne},
		`"not_rel_types":["m.thread"]`: {one, two, onTwo},
	} {
		answer := bert.do("GET", v3+"/sync?since="+since+"&filter="+url.QueryEscape(`{"room":{"timeline":{`+filter+`}}}`), nil).ok()
		var got []string
		for _, e := range answer.get("rooms.join").Map()[room].Get("timeline.events").Array() {
			got = append(got, e.Get("event_id").Str)
		}
		same(t, filter, got, want)
	}
}

// A thousand edits of one event make no answer longer.
func testManyEdits(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	room := anna.create(object{})
	event := anna.say(room, "0")
	var last string
	for i := range 200 {
		last = anna.edit(room, event, fmt.Sprint(i))
	}
	if b := anna.do("GET", in(room, "event", event), nil).ok(); b.str("unsigned.m\\.relations.m\\.replace.event_id") != last || len(b.raw) > 4000 {
		t.Errorf("%d bytes: %.2000s", len(b.raw), b.raw)
	}
}

// bundleIn is what a timeline says of what relates to an event.
func bundleIn(timeline gjson.Result, event string) gjson.Result {
	for _, e := range timeline.Array() {
		if e.Get("event_id").Str == event {
			return e.Get("unsigned.m\\.relations")
		}
	}
	return gjson.Result{}
}

// Client-server API, "Aggregations of child events": /sync has them where a timeline is limited, and in first answers, which are made
// once for all.
func testRelationsInSync(t *testing.T, w *world) {
	anna, bert, carl := w.register(t, "anna"), w.register(t, "bert"), w.register(t, "carl")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	carl.join(room)
	early := carl.say(room, "early")
	carl.everywhere(room, early)
	since := carl.do("GET", v3+"/sync", nil).ok().str("next_batch")
	anna.say(room, "one more than fits")
	root := anna.say(room, "root")
	reply := bert.reply(room, root, "reply")
	edit := anna.edit(room, root, "edited")
	timeline := func(p *person, query string) gjson.Result {
		return p.do("GET", v3+"/sync?"+query, nil).ok().get("rooms.join").Map()[room].Get("timeline")
	}
	check := func(what string, p *person, query string, count int64, in bool) {
		t.Helper()
		tl := timeline(p, query)
		b := bundleIn(tl.Get("events"), root)
		if b.Get("m\\.replace.event_id").Str != edit || b.Get("m\\.thread.count").Int() != count || b.Get("m\\.thread.current_user_participated").Bool() != in ||
			count > 0 && b.Get("m\\.thread.latest_event.event_id").Str != reply || b.Get("m\\.thread.latest_event.room_id").Exists() {
			t.Errorf("%s: %s", what, tl.Raw)
		}
	}
	limited := "filter=" + url.QueryEscape(`{"room":{"timeline":{"limit":3}}}`)
	for _, p := range []*person{anna, bert, carl} {
		p.everywhere(room, edit)
		check("a first answer", p, "", 1, p != carl)
		check("a first answer again", p, limited, 1, p != carl)
		check("with a filter", p, "filter="+url.QueryEscape(`{"room":{"timeline":{"limit":30,"types":["m.room.*"]}}}`), 1, p != carl)
	}
	check("a limited timeline", carl, "since="+since+"&filter="+url.QueryEscape(`{"room":{"timeline":{"limit":3}}}`), 1, false)
	if tl := timeline(carl, "since="+since); tl.Get("limited").Bool() || bundleIn(tl.Get("events"), root).Exists() {
		t.Errorf("a timeline that is not limited: %s", tl.Raw)
	}
	anna.do("PUT", v3+"/user/"+url.PathEscape(anna.id)+"/account_data/m.ignored_user_list", object{"ignored_users": object{bert.id: object{}}}).ok()
	eventually(t, "who ignores is told less", func() bool {
		b := bundleIn(timeline(anna, "").Get("events"), root)
		return b.Get("m\\.replace.event_id").Str == edit && !b.Get("m\\.thread").Exists()
	})
	bert.redacts(room, reply)
	eventually(t, "a redaction is told", func() bool {
		b := bundleIn(timeline(carl, "").Get("events"), root)
		return b.Get("m\\.replace.event_id").Str == edit && !b.Get("m\\.thread").Exists()
	})
	// Who left is told what was until then.
	bert.do("POST", in(room, "leave"), object{}).ok()
	anna.edit(room, root, "after")
	left := bert.do("GET", v3+"/sync?filter="+url.QueryEscape(`{"room":{"include_leave":true,"timeline":{"limit":30}}}`), nil).ok().get("rooms.leave").Map()[room]
	if got := bundleIn(left.Get("timeline.events"), root).Get("m\\.replace.event_id").Str; got != edit {
		t.Errorf("who left: %s", left.Raw)
	}
}

// MSC4186: timelines of rooms that are told for the first time have aggregations.
func testRelationsInSlidingSync(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	room := anna.create(object{})
	root := anna.say(room, "root")
	reply := anna.reply(room, root, "reply")
	anna.everywhere(room, reply)
	body := object{"lists": object{"all": object{"ranges": list{list{0, 19}}, "timeline_limit": 5, "required_state": list{}}}}
	answer := anna.do("POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", body).ok()
	b := bundleIn(answer.get("rooms").Map()[room].Get("timeline"), root)
	if b.Get("m\\.thread.latest_event.event_id").Str != reply || !b.Get("m\\.thread.current_user_participated").Bool() {
		t.Errorf("%s", answer.raw)
	}
}
