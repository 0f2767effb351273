package room

import (
	"strconv"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomdb/eventsql"
)

// The rows of a batch, column by column, as unnest takes them.

func addEvent(r *eventsql.Rows, part int32, room int64, e *newEvent) {
	r.Part = append(r.Part, part)
	r.NID = append(r.NID, e.nid)
	r.Room = append(r.Room, room)
	r.ID = append(r.ID, string(e.pdu.ID))
	r.Ord = append(r.Ord, orNull(e.ord))
	r.Depth = append(r.Depth, e.pdu.Depth)
	r.Type = append(r.Type, e.pdu.Type)
	r.StateKey = append(r.StateKey, e.pdu.StateKey)
	r.Sender = append(r.Sender, string(e.pdu.Sender))
	r.OriginTS = append(r.OriginTS, e.pdu.OriginServerTS)
	var sid *int64
	if e.flags&flagOutlier == 0 {
		sid = &e.sid
	}
	r.SID = append(r.SID, sid)
	r.Flags = append(r.Flags, e.flags)
	r.Auth = append(r.Auth, int64Array(e.auth))
	r.Prev = append(r.Prev, int64Array(e.prev))
	r.NotifySeq = append(r.NotifySeq, e.notifySeq)
	r.Replaces = append(r.Replaces, e.replaces)
	r.RedactedBy = append(r.RedactedBy, orNull(e.redactedBy))
	var cause *string
	if e.cause != "" {
		cause = &e.cause
	}
	r.Cause = append(r.Cause, cause)
	r.JSON = append(r.JSON, e.pdu.JSON)
}

type roomRows struct {
	part                         []int32
	nid                          []int64
	roomID, version              []string
	sid                          []int64
	extremities                  []string
	depth, firstOrd, lastPos     []int64
	notifySeq                    []int64
	published                    []bool
	joined, invited, joinedLocal []int32
	fullPos                      []int64
	active, bumped               []int64
}

func (r *roomRows) add(room *room, row *roomRow, lastPos int64, published bool) {
	r.part = append(r.part, int32(room.p.part))
	r.nid = append(r.nid, room.nid)
	r.roomID = append(r.roomID, string(room.id))
	r.version = append(r.version, room.rules.Version)
	r.sid = append(r.sid, row.sid)
	r.extremities = append(r.extremities, int64Array(row.extremities))
	r.depth = append(r.depth, row.depth)
	r.firstOrd = append(r.firstOrd, row.firstOrd)
	r.lastPos = append(r.lastPos, lastPos)
	r.notifySeq = append(r.notifySeq, row.notifySeq)
	r.published = append(r.published, published)
	r.joined = append(r.joined, row.joined)
	r.invited = append(r.invited, row.invited)
	r.joinedLocal = append(r.joinedLocal, row.joinedLocal)
	full := row.fullPos
	if full == fullHere {
		full = room.filledPos.Load()
	}
	r.fullPos = append(r.fullPos, full)
	r.active = append(r.active, row.active)
	r.bumped = append(r.bumped, row.bumped)
}

func (r *roomRows) insert() []any {
	return []any{r.part, r.nid, r.roomID, r.version, r.sid, r.extremities, r.depth, r.firstOrd, r.lastPos, r.notifySeq,
		r.published, r.joined, r.invited, r.joinedLocal, r.fullPos, r.active, r.bumped}
}

func (r *roomRows) update() []any {
	return []any{r.part, r.nid, r.sid, r.extremities, r.depth, r.firstOrd, r.lastPos, r.notifySeq, r.joined, r.invited,
		r.joinedLocal, r.fullPos, r.active, r.bumped}
}

type logRows struct {
	part                 []int32
	pos, room            []int64
	kind                 []int16
	event, before, after []*int64
	body                 [][]byte
}

func (r *logRows) add(room *room, pos int64, e *entry) {
	r.part = append(r.part, int32(room.p.part))
	r.pos = append(r.pos, pos)
	r.room = append(r.room, room.nid)
	r.kind = append(r.kind, e.kind)
	var nid, before, after *int64
	if e.event != nil {
		nid = &e.event.nid
	}
	if e.event != nil || e.kind == roomdb.KindFilled {
		before, after = &e.before, &e.after
	}
	r.event = append(r.event, nid)
	r.before = append(r.before, before)
	r.after = append(r.after, after)
	r.body = append(r.body, e.body)
}

func (r *logRows) args() []any {
	return []any{r.part, r.pos, r.room, r.kind, r.event, r.before, r.after, r.body}
}

// keyed holds rows that begin with the room: redactions, mentions, servers, missing events, the directory.
type keyed struct {
	part  []int32
	room  []int64
	text  []string
	text2 []string
	num   []int64
	small []int32
	flag  []bool
}

func (k *keyed) add(room *room) {
	k.part = append(k.part, int32(room.p.part))
	k.room = append(k.room, room.nid)
}

type receiptRows struct {
	part                     []int32
	room                     []int64
	user, typ, thread, event []string
	ord, notifySeq, ts, pos  []int64
}

func (r *receiptRows) add(room *room, row *receiptRow) {
	r.part = append(r.part, int32(room.p.part))
	r.room = append(r.room, room.nid)
	r.user = append(r.user, string(row.user))
	r.typ = append(r.typ, row.typ)
	r.thread = append(r.thread, row.thread)
	r.event = append(r.event, string(row.event))
	r.ord = append(r.ord, row.ord)
	r.notifySeq = append(r.notifySeq, row.notifySeq)
	r.ts = append(r.ts, row.ts)
	r.pos = append(r.pos, row.pos)
}

func (r *receiptRows) args() []any {
	return []any{r.part, r.room, r.user, r.typ, r.thread, r.event, r.ord, r.notifySeq, r.ts, r.pos}
}

// int64Array is the text form of a bigint[].
func int64Array(ns []int64) string {
	b := append(make([]byte, 0, 2+8*len(ns)), '{')
	for i, n := range ns {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, n, 10)
	}
	return string(append(b, '}'))
}

func orNull(n int64) *int64 {
	if n == 0 {
		return nil
	}
	return &n
}

// serverKey names a row of room_server.
type serverKey struct {
	room   *room
	server id.Server
}
