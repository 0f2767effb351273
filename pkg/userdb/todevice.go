package userdb

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/userdb/db"
	logv1 "hanse/proto/log/v1"
)

// AllDevices as a device of a to-device message stands for each device of the user.
const AllDevices id.Device = "*"

// ToDevice is a to-device message. Seq and N order what waits for one device.
type ToDevice struct {
	User    id.User
	Device  id.Device
	Sender  id.User
	Type    string
	Content []byte
	Seq     int64
	N       int
}

// Txn names a request of a device that must have its effect once.
type Txn struct {
	User     id.User
	Device   id.Device
	Endpoint string
	ID       string
}

// HasTxn reports whether the request was finished before.
func (d *DB) HasTxn(ctx context.Context, t Txn) (bool, error) {
	q, part := d.At(t.User)
	return q.HasUserTxn(ctx, db.HasUserTxnParams{Part: part, UserID: string(t.User), DeviceID: string(t.Device), Endpoint: t.Endpoint, TxnID: t.ID})
}

// SendToDevice stores messages for devices of local users; those to devices that do not exist are dropped. With txn the
// messages are stored once, however often it is repeated and by however many at a time: on each shard messages and a
// mark commit together. The shard of txn's user comes last: its mark says that all are done.
func (d *DB) SendToDevice(ctx context.Context, msgs []ToDevice, txn *Txn) error {
	if txn != nil {
		if done, err := d.HasTxn(ctx, *txn); err != nil || done {
			return err
		}
	}
	shards := d.groupMessages(msgs)
	if txn == nil {
		for _, m := range shards {
			if err := d.storeMessages(ctx, m, nil, 0); err != nil {
				return err
			}
		}
		return nil
	}
	homePart := partition.Of(string(txn.User))
	home := d.shards.For(homePart)
	var last db.AddToDeviceParams
	for pool, m := range shards {
		if pool == home {
			last = m.params
			continue
		}
		// The mark lies with the first message: a repeated request has the same one.
		if err := d.storeMessages(ctx, m, txn, uint32(m.params.Parts[0])); err != nil {
			return err
		}
	}
	return d.storeMessages(ctx, &shardMessages{pool: home, params: last}, txn, homePart)
}

type shardMessages struct {
	pool   pg.Beginner
	params db.AddToDeviceParams
}

func (d *DB) groupMessages(msgs []ToDevice) map[pg.Beginner]*shardMessages {
	msgs = slices.Clone(msgs)
	slices.SortStableFunc(msgs, func(a, b ToDevice) int {
		return cmp.Or(cmp.Compare(partition.Of(string(a.User)), partition.Of(string(b.User))), cmp.Compare(a.User, b.User))
	})
	out := make(map[pg.Beginner]*shardMessages)
	for i, m := range msgs {
		part := partition.Of(string(m.User))
		pool := d.shards.For(part)
		s := out[pool]
		if s == nil {
			s = &shardMessages{pool: pool}
			out[pool] = s
		}
		p := &s.params
		p.Parts = append(p.Parts, int32(part))
		p.UserIds = append(p.UserIds, string(m.User))
		p.DeviceIds = append(p.DeviceIds, string(m.Device))
		p.Senders = append(p.Senders, string(m.Sender))
		p.Types = append(p.Types, m.Type)
		p.Contents = append(p.Contents, m.Content)
		p.Ns = append(p.Ns, int32(i))
	}
	return out
}

// storeMessages stores the messages of a shard; with txn only if its mark in the partition is new.
func (d *DB) storeMessages(ctx context.Context, m *shardMessages, txn *Txn, markPart uint32) error {
	var raised []db.AddToDeviceRow
	err := pg.InTx(ctx, m.pool, func(tx pgx.Tx) error {
		q := db.New(tx)
		if txn != nil {
			n, err := q.AddUserTxn(ctx, db.AddUserTxnParams{
				Part: int32(markPart), UserID: string(txn.User), DeviceID: string(txn.Device),
				Endpoint: txn.Endpoint, TxnID: txn.ID, CreatedTs: Millis(time.Now()),
			})
			if err != nil || n == 0 {
				return err
			}
		}
		if len(m.params.Parts) == 0 {
			return nil
		}
		var err error
		raised, err = q.AddToDevice(ctx, m.params)
		return err
	})
	if err != nil {
		return fmt.Errorf("store to-device messages: %w", err)
	}
	byPart := make(map[uint32][]*logv1.UserSeq)
	for _, r := range raised {
		part := partition.Of(r.UserID)
		byPart[part] = append(byPart[part], &logv1.UserSeq{UserId: r.UserID, Seq: r.Seq})
	}
	for part, users := range byPart {
		_ = d.bus.PublishUsers(part, users...) // a hint: readers look at PostgreSQL anyway
	}
	return nil
}

// onePosition bounds the messages of one position, which are of one request.
const onePosition = 10_000

// ToDeviceSince returns the messages for a device at positions in (after, upTo], oldest first: those of as many positions as fit into
// so many messages and bytes of content, and of one at least. These are all messages up to the position end.
func (d *DB) ToDeviceSince(ctx context.Context, user id.User, device id.Device, after, upTo int64, messages int, bytes int64) (msgs []ToDevice, end int64, err error) {
	q, part := d.At(user)
	read := db.ToDeviceParams{Part: part, UserID: string(user), DeviceID: string(device), After: after, UpTo: upTo, Max: int32(messages) + 1, Bytes: bytes}
	rows, err := q.ToDevice(ctx, read)
	if err != nil {
		return nil, 0, err
	}
	end = upTo
	fit := min(len(rows), messages)
	if long := slices.IndexFunc(rows[:fit], func(r db.ToDeviceRow) bool { return r.Content == nil }); long >= 0 {
		fit = long
	}
	if fit < len(rows) {
		next := rows[fit].Seq // there may be others of this position
		for fit > 0 && rows[fit-1].Seq == next {
			fit--
		}
		if fit > 0 {
			rows, end = rows[:fit], rows[fit-1].Seq
		} else {
			read.UpTo, read.Max, read.Bytes = next, onePosition, math.MaxInt64
			if rows, err = q.ToDevice(ctx, read); err != nil {
				return nil, 0, err
			}
			end = next
		}
	}
	msgs = make([]ToDevice, len(rows))
	for i, r := range rows {
		msgs[i] = ToDevice{
			User: user, Device: device, Sender: id.User(r.Sender), Type: r.Type, Content: r.Content, Seq: r.Seq, N: int(r.N),
		}
	}
	return msgs, end, nil
}

// AckToDevice deletes the messages of a device up to and including a position. It returns how many there were.
func (d *DB) AckToDevice(ctx context.Context, user id.User, device id.Device, upTo int64) (int64, error) {
	q, part := d.At(user)
	return q.AckToDevice(ctx, db.AckToDeviceParams{Part: part, UserID: string(user), DeviceID: string(device), UpTo: upTo})
}

// QueueEDU stores an EDU that must reach a server, and wakes fedout. With a dedup key, a later one with the same key
// may take its place.
func (d *DB) QueueEDU(ctx context.Context, origin, destination id.Server, eduType, dedupKey string, content []byte) error {
	part := partition.Of(string(destination))
	var key *string
	if dedupKey != "" {
		key = &dedupKey
	}
	err := db.New(d.shards.For(part)).AddEDU(ctx, db.AddEDUParams{
		Part: int32(part), ServerName: string(destination), Origin: string(origin), EduType: eduType, DedupKey: key, Content: content,
	})
	if err != nil {
		return fmt.Errorf("queue %s for %s: %w", eduType, destination, err)
	}
	_ = d.bus.WakeFedout(part) // a hint: fedout looks at PostgreSQL anyway
	return nil
}
