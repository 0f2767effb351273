package room

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
)

// Relations of events are rows of their own (docs/relations.md). The owner writes them with the events that relate to others, in
// the same transaction. Readers count nothing, and an event that relates to none costs nothing.

const (
	// maxRelationText bounds the type of a relation and the id of the event that is related to, in bytes.
	maxRelationText = 255
	// maxAnnotationKey bounds the key of an annotation, in bytes, as Synapse does.
	maxAnnotationKey = 500
)

// relation is what an event says of another one.
type relation struct {
	parent       id.Event
	relType, key string
	edit         bool // it may replace the parent's content
}

// relationIn reads the relation in the content of an event; nil if there is none that counts (client-server API, "Forming
// relationships between events": what does not have the right form is ignored).
func relationIn(content gjson.Result, typ string, stateKey *string) *relation {
	of := content.Get(`m\.relates_to`)
	parent, relType := of.Get("event_id"), of.Get("rel_type")
	if parent.Type != gjson.String || relType.Type != gjson.String || len(parent.Str) > maxRelationText || len(relType.Str) > maxRelationText ||
		!strings.HasPrefix(parent.Str, "$") || relType.Str == "" || !storableText(parent.Str, relType.Str) {
		return nil
	}
	r := &relation{parent: id.Event(parent.Str), relType: relType.Str}
	if key := of.Get("key"); key.Type == gjson.String && storableText(key.Str) {
		r.key = key.Str
	}
	// "Validity of replacement events"; what an encrypted event replaces is inside of it.
	r.edit = r.relType == event.Replace && stateKey == nil && (typ == "m.room.encrypted" || content.Get(`m\.new_content`).IsObject())
	return r
}

// relate notes the relation of an event that gets a place in the timeline.
func (e *newEvent) relate(content gjson.Result) {
	if e.relation = relationIn(content, e.pdu.Type, e.pdu.StateKey); e.relation != nil && e.relation.parent == e.pdu.ID {
		e.relation = nil
	}
}

// checkRelation refuses relations that a local user must not send: to events that the room does not have, threads on events that
// relate to others themselves ("Validation of m.thread relationships"), and the same annotation twice ("Avoiding duplicate
// annotations").
func (w *writer) checkRelation(ctx context.Context, in *intent) error {
	r := relationIn(gjson.ParseBytes(in.content), in.typ, in.stateKey)
	if r == nil {
		return nil
	}
	parent, err := w.find(ctx, r.parent)
	if err != nil {
		return err
	}
	switch {
	case parent == nil:
		return w.mayRelateToUnknown(ctx, r.parent)
	case parent.RoomID != w.r.id:
		return badRelation("Relations must be in the same room")
	case r.relType == event.Thread && event.RelationType(parent.Content) != "":
		return badRelation("Cannot start threads from an event with a relation")
	case r.relType != event.Annotation:
		return nil
	case len(r.key) > maxAnnotationKey:
		return badRelation("Aggregation key is too long")
	}
	return w.mustBeNew(ctx, in, r)
}

func badRelation(msg string) error { return merr.New(http.StatusBadRequest, merr.CodeUnknown, msg) }

// mayRelateToUnknown lets a user relate to an event that we do not have if others did, as Synapse does: their events came
// before it.
func (w *writer) mayRelateToUnknown(ctx context.Context, parent id.Event) error {
	var known bool
	err := w.s.shards.For(w.r.p.part).QueryRow(ctx, sqlIsParent, int32(w.r.p.part), w.r.nid, string(parent)).Scan(&known)
	if err != nil {
		return fmt.Errorf("look for relations: %w", err)
	}
	if !known {
		return badRelation("Can't send relation to unknown event")
	}
	return nil
}

// mustBeNew refuses an annotation that its sender made already: 400 M_DUPLICATE_ANNOTATION.
func (w *writer) mustBeNew(ctx context.Context, in *intent, r *relation) error {
	same := func(e *newEvent) bool {
		return e.relation != nil && *e.relation == *r && e.pdu.Type == in.typ && e.pdu.Sender == in.sender
	}
	twice := slices.ContainsFunc(w.c.events, same)
	queued := slices.ContainsFunc(w.r.unsettled, func(u unsettled) bool { return slices.ContainsFunc(u.events, same) })
	if !twice && !queued {
		var err error
		if queued, err = w.annotated(ctx, in, r); err != nil || !queued {
			return err
		}
	}
	if !twice {
		// Of what is queued, one may fail, and another may be the redaction of the annotation.
		if err := w.r.waitCommitted(ctx); err != nil {
			return err
		}
		var err error
		if twice, err = w.annotated(ctx, in, r); err != nil || !twice {
			return err
		}
	}
	return merr.New(http.StatusBadRequest, merr.CodeDuplicateAnnotation, "Can't send same reaction twice")
}

// annotated says whether PostgreSQL has the annotation.
func (w *writer) annotated(ctx context.Context, in *intent, r *relation) (found bool, err error) {
	err = w.s.shards.For(w.r.p.part).QueryRow(ctx, sqlAnnotated, int32(w.r.p.part), w.r.nid, string(r.parent), string(in.sender), in.typ,
		r.key).Scan(&found)
	if err != nil {
		return false, fmt.Errorf("look for an annotation: %w", err)
	}
	return found, nil
}

const (
	sqlIsParent = `
SELECT EXISTS (SELECT FROM relation WHERE part = $1 AND room_nid = $2 AND parent = $3 AND live)`

	sqlAnnotated = `
SELECT EXISTS (SELECT FROM relation WHERE part = $1 AND room_nid = $2 AND parent = $3 AND sender = $4
	AND rel_type = 'm.annotation' AND type = $5 AND key = $6 AND live)`

	// sqlRelate writes the relations of new events and counts the replies of threads. Who sent the root takes part in the thread.
	// An event that was here before has its row already: see sqlRelateAnew.
	sqlRelate = `
WITH new AS (
	INSERT INTO relation (part, child, room_nid, parent, rel_type, child_id, type, sender, origin_ts, place, key, edit, live)
	SELECT * FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
		$9::bigint[], $10::bigint[], $11::text[], $12::bool[], $13::bool[])
	ON CONFLICT DO NOTHING
	RETURNING part, room_nid, parent, rel_type, sender, place, live)
INSERT INTO thread AS t (part, room_nid, user_id, root, replies, last_place)
SELECT part, room_nid, user_id, root, sum(n), max(place) FROM (
	SELECT n.part, n.room_nid, u.user_id, n.parent AS root, CASE WHEN n.live THEN 1 ELSE 0 END AS n, n.place
	FROM new n CROSS JOIN LATERAL (VALUES (''), (n.sender)) AS u (user_id) WHERE n.rel_type = 'm.thread'
	UNION ALL
	SELECT n.part, n.room_nid, e.sender, n.parent, 0, n.place FROM new n CROSS JOIN LATERAL (
		SELECT event_id, room_nid, sender FROM event WHERE part = n.part AND event_id >= n.parent ORDER BY event_id LIMIT 1) e
	WHERE n.rel_type = 'm.thread' AND e.event_id = n.parent AND e.room_nid = n.room_nid) x
GROUP BY part, room_nid, user_id, root
ON CONFLICT (part, room_nid, user_id, root) DO UPDATE
SET replies = t.replies + excluded.replies, last_place = greatest(t.last_place, excluded.last_place)`

	// sqlRelateAnew makes the relations of stored events follow what became of these: redactions, and other verdicts.
	sqlRelateAnew = `
WITH moved AS (
	UPDATE relation r SET live = e.live, place = coalesce(e.place, r.place)
	FROM (SELECT DISTINCT part, child FROM unnest($1::int[], $2::bigint[]) AS b (part, child)) b CROSS JOIN LATERAL (
		SELECT event_nid, ord IS NOT NULL AND redacted_by IS NULL AS live, ` + roomdb.PlaceSQL + ` AS place
		FROM event WHERE part = b.part AND event_nid >= b.child ORDER BY event_nid LIMIT 1) e
	WHERE e.event_nid = b.child AND r.part = b.part AND r.child = b.child AND r.live <> e.live
	RETURNING r.part, r.room_nid, r.parent, r.rel_type, r.child, r.sender, r.place, r.live),
counts AS (
	SELECT m.part, m.room_nid, u.user_id, m.parent, sum(CASE WHEN m.live THEN 1 ELSE -1 END) AS n, max(m.place) FILTER (WHERE m.live) AS place
	FROM moved m CROSS JOIN LATERAL (VALUES (''), (m.sender)) AS u (user_id) WHERE m.rel_type = 'm.thread'
	GROUP BY m.part, m.room_nid, u.user_id, m.parent)
UPDATE thread t SET replies = t.replies + c.n, last_place = coalesce(greatest(c.place, (
	SELECT r.place FROM relation r WHERE r.part = t.part AND r.room_nid = t.room_nid AND r.parent = t.root AND r.rel_type = 'm.thread'
		AND r.live AND NOT EXISTS (SELECT FROM moved m WHERE m.part = r.part AND m.child = r.child) ORDER BY r.place DESC LIMIT 1)), t.last_place)
FROM counts c WHERE t.part = c.part AND t.room_nid = c.room_nid AND t.user_id = c.user_id AND t.root = c.parent`

	// sqlRoots lets the senders of events take part in the threads that began on these before they came.
	sqlRoots = `
INSERT INTO thread (part, room_nid, user_id, root, replies, last_place)
SELECT t.part, t.room_nid, b.sender, t.root, 0, t.last_place
FROM unnest($1::int[], $2::bigint[], $3::text[], $4::text[]) AS b (part, room_nid, event_id, sender)
JOIN thread t ON t.part = b.part AND t.room_nid = b.room_nid AND t.user_id = '' AND t.root = b.event_id
ON CONFLICT DO NOTHING`
)

// relationRows holds relations column by column, as unnest takes them.
type relationRows struct {
	keyed                     // num: the child, text: the parent, text2: the type of the relation, flag: whether it may be an edit
	childID, typ, sender, key []string
	originTS, place           []int64
	live                      []bool
}

func (r *relationRows) add(room *room, e *newEvent) {
	r.keyed.add(room)
	r.of(e)
}

// of adds all of a row but where the event lies.
func (r *relationRows) of(e *newEvent) {
	r.num, r.text, r.text2 = append(r.num, e.nid), append(r.text, string(e.relation.parent)), append(r.text2, e.relation.relType)
	r.childID, r.typ, r.sender = append(r.childID, string(e.pdu.ID)), append(r.typ, e.pdu.Type), append(r.sender, string(e.pdu.Sender))
	r.originTS, r.place = append(r.originTS, e.pdu.OriginServerTS), append(r.place, int64(roomdb.PlaceOf(e.ord)))
	r.key, r.flag, r.live = append(r.key, e.relation.key), append(r.flag, e.relation.edit), append(r.live, e.redactedBy == 0)
}

func (r *relationRows) queue(q *pgx.Batch) {
	if len(r.part) > 0 {
		q.Queue(sqlRelate, r.part, r.num, r.room, r.text, r.text2, r.childID, r.typ, r.sender, r.originTS, r.place, r.key, r.flag, r.live)
	}
}

// queueRelations writes the relations of the batch's events, and what becomes of those of stored events. It comes behind all
// that changes the events' rows.
func (b *batch) queueRelations(q *pgx.Batch) {
	var rows relationRows
	var anew, roots keyed
	for _, c := range b.changes {
		for _, e := range c.events {
			if e.relation != nil && e.flags == 0 && e.ord != 0 && !e.withheld {
				rows.add(c.room, e)
			}
			if e.rowExists {
				anew.add(c.room)
				anew.num = append(anew.num, e.nid)
			}
			if e.history {
				roots.add(c.room)
				roots.text, roots.text2 = append(roots.text, string(e.pdu.ID)), append(roots.text2, string(e.pdu.Sender))
			}
		}
		for _, r := range c.redactions {
			if r.related {
				anew.add(c.room)
				anew.num = append(anew.num, r.target)
			}
		}
		for _, e := range c.partial.redone {
			anew.add(c.room)
			anew.num = append(anew.num, e.nid)
		}
		for _, r := range c.partial.restored {
			anew.add(c.room)
			anew.num = append(anew.num, r.target)
		}
	}
	rows.queue(q)
	if len(anew.part) > 0 {
		q.Queue(sqlRelateAnew, anew.part, anew.num)
	}
	if len(roots.part) > 0 {
		q.Queue(sqlRoots, roots.part, roots.room, roots.text, roots.text2)
	}
}
