package room

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	logv1 "hanse/proto/log/v1"
	roomv1 "hanse/proto/room/v1"
)

// receiptKey names a receipt within a room.
type receiptKey struct {
	user        id.User
	typ, thread string
}

// knownReceipts bounds what a room remembers of receipts.
const knownReceipts = 512

// Receipts implements roomv1.RoomServer. A receipt moves forward only; one for an event that has no place in the
// timeline, or that lies behind the present one, is ignored.
func (s *Service) Receipts(ctx context.Context, req *roomv1.ReceiptsRequest) (*roomv1.ReceiptsResponse, error) {
	roomID, err := parseRoom(req.RoomId)
	if err != nil {
		return nil, err
	}
	if len(req.Receipts) > maxIntents {
		return nil, merr.InvalidParam(fmt.Sprintf("%d receipts in one request", len(req.Receipts)))
	}
	in, err := readable(req.Receipts)
	if err != nil {
		return nil, err
	}
	r, err := s.joinedRoom(ctx, roomID)
	if err != nil {
		return nil, err
	}
	c, err := r.receiptChange(ctx, in)
	some := err == nil && len(c.entries) > 0
	if some {
		rows := c.receipts // the lane may be done with the change before we are
		if err = r.put(c, r.head); err == nil {
			r.noteReceipts(rows)
		}
	}
	r.unlock()
	if err != nil {
		return nil, err
	}
	if !some {
		return &roomv1.ReceiptsResponse{Pos: r.lastPos.Load()}, nil
	}
	if err := c.wait(ctx); err != nil {
		return nil, again(err)
	}
	return &roomv1.ReceiptsResponse{Pos: c.last}, nil
}

// readable checks receipts. Malformed ones of local users are refused; those of others are ignored, lest one keep the others
// of an EDU from being taken.
func readable(in []*roomv1.ReceiptIntent) ([]*roomv1.ReceiptIntent, error) {
	out := make([]*roomv1.ReceiptIntent, 0, len(in))
	for _, ri := range in {
		_, err := id.ParseUser(ri.UserId)
		if err == nil && !storableText(ri.UserId, ri.Type, ri.ThreadId, ri.EventId) {
			err = errUnstorable
		}
		if err == nil && max(len(ri.Type), len(ri.ThreadId), len(ri.EventId)) > id.MaxLength {
			err = errLong
		}
		if err != nil && ri.Local {
			return nil, merr.InvalidParam(err.Error())
		}
		if err == nil {
			out = append(out, ri)
		}
	}
	return out, nil
}

// again turns the loss of a room into what makes the caller come back.
func again(err error) error {
	if errors.Is(err, errStale) {
		return errUnavailable
	}
	return err
}

func (r *room) receiptChange(ctx context.Context, in []*roomv1.ReceiptIntent) (*change, error) {
	c := newChange(ctx, r)
	if err := r.knowReceipts(ctx, in); err != nil {
		return nil, err
	}
	newest := make(map[receiptKey]roomdb.Place, len(in))
	for _, ri := range in {
		row, err := r.receipt(ctx, ri)
		if err != nil {
			return nil, err
		}
		if row == nil {
			continue
		}
		key := receiptKey{row.user, row.typ, row.thread}
		known, ok := r.receipts[key]
		if n, again := newest[key]; again {
			known, ok = n, true
		}
		if ok && known >= row.place {
			continue
		}
		newest[key] = row.place
		en, err := r.receiptEntry(row)
		if err != nil {
			return nil, err
		}
		c.receipts = append(c.receipts, row)
		c.entries = append(c.entries, en)
	}
	return c, nil
}

// receipt finds the place of the event that a receipt names; nil if it has none.
func (r *room) receipt(ctx context.Context, in *roomv1.ReceiptIntent) (*receiptRow, error) {
	row := &receiptRow{user: id.User(in.UserId), typ: in.Type, thread: in.ThreadId, event: id.Event(in.EventId), ts: in.Ts, local: in.Local}
	if pl, ok := r.recent.byID[row.event]; ok {
		select {
		case <-pl.c.done:
			row.at(pl.e.ord, pl.e.notifySeq)
			return row, nil
		default: // not committed: nobody can have seen it, unless the answer is on its way
			if err := pl.c.wait(ctx); err != nil {
				return nil, again(err)
			}
			row.at(pl.e.ord, pl.e.notifySeq)
			return row, nil
		}
	}
	e, err := r.eventByID(ctx, row.event)
	if err == nil && e != nil && !e.Visible() { // what we remember of one that filled a hole does not say where it is
		e, err = r.s.db.EventByID(ctx, &roomdb.Room{Part: r.p.part, NID: r.nid}, row.event)
	}
	if err != nil || e == nil || !e.Visible() {
		return nil, err
	}
	row.at(e.Ord, e.NotifySeq)
	return row, nil
}

// at says where the event of the receipt is. Its ord is the log position up to which all is read, for who counts.
func (row *receiptRow) at(ord, notifySeq int64) {
	row.place, row.notifySeq = roomdb.PlaceOf(ord), notifySeq
	row.ord = row.place.Pos()
}

func (r *room) receiptEntry(row *receiptRow) (*entry, error) {
	body := &logv1.Receipt{UserId: string(row.user), Type: row.typ, ThreadId: row.thread, EventId: string(row.event),
		Ts: row.ts, Ord: row.ord, NotifySeq: row.notifySeq, Local: row.local}
	stored, err := proto.Marshal(body)
	if err != nil {
		return nil, err
	}
	return &entry{kind: roomdb.KindReceipt, receipt: row, body: stored,
		bus: &logv1.Entry{RoomNid: r.nid, RoomId: string(r.id), Body: &logv1.Entry_Receipt{Receipt: body}}}, nil
}

// knowReceipts reads the present receipts of users that are not in memory.
func (r *room) knowReceipts(ctx context.Context, in []*roomv1.ReceiptIntent) error {
	var users []string
	for _, ri := range in {
		if _, ok := r.receipts[receiptKey{id.User(ri.UserId), ri.Type, ri.ThreadId}]; !ok {
			users = append(users, ri.UserId)
		}
	}
	if len(users) == 0 {
		return nil
	}
	rows, err := r.s.shards.For(r.p.part).Query(ctx, sqlReceiptsOf, int32(r.p.part), r.nid, users)
	if err != nil {
		return fmt.Errorf("read receipts: %w", err)
	}
	defer rows.Close()
	if len(r.receipts) > knownReceipts {
		clear(r.receipts)
	}
	for rows.Next() {
		var key receiptKey
		var ord int64
		if err := rows.Scan(&key.user, &key.typ, &key.thread, &ord); err != nil {
			return fmt.Errorf("read receipts: %w", err)
		}
		// What is queued but not committed is newer than the row.
		r.receipts[key] = max(r.receipts[key], roomdb.PlaceOf(ord))
	}
	return rows.Err()
}

func (r *room) noteReceipts(rows []*receiptRow) {
	for _, row := range rows {
		r.receipts[receiptKey{row.user, row.typ, row.thread}] = row.place
	}
}

// DeviceChanges implements roomv1.RoomServer: one log entry in each of the rooms, in one commit.
func (s *Service) DeviceChanges(ctx context.Context, req *roomv1.DeviceChangesRequest) (*roomv1.DeviceChangesResponse, error) {
	if _, err := id.ParseUser(req.UserId); err != nil {
		return nil, merr.InvalidParam(err.Error())
	}
	var changes []*change
	for _, text := range req.RoomIds {
		roomID, err := parseRoom(text)
		if err != nil {
			return nil, err
		}
		c, err := s.deviceChange(ctx, roomID, req)
		if err != nil {
			return nil, err
		}
		if c != nil {
			changes = append(changes, c)
		}
	}
	for _, c := range changes {
		if err := c.wait(ctx); err != nil {
			return nil, again(err)
		}
	}
	return &roomv1.DeviceChangesResponse{}, nil
}

func (s *Service) deviceChange(ctx context.Context, roomID id.Room, req *roomv1.DeviceChangesRequest) (*change, error) {
	r, err := s.lockRoom(ctx, roomID)
	if err != nil {
		return nil, err
	}
	defer r.unlock()
	if !r.exists || r.head.joinedLocal == 0 {
		return nil, nil // no local user would hear it
	}
	body := &logv1.DeviceChange{UserId: req.UserId, StreamId: req.StreamId, Local: req.Local, DeviceId: req.DeviceId}
	stored, err := proto.Marshal(body)
	if err != nil {
		return nil, err
	}
	c := newChange(ctx, r)
	c.entries = []*entry{{kind: roomdb.KindDeviceChange, body: stored,
		bus: &logv1.Entry{RoomNid: r.nid, RoomId: string(r.id), Body: &logv1.Entry_DeviceChange{DeviceChange: body}}}}
	return c, r.put(c, r.head)
}
