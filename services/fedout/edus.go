package fedout

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
	"hanse/pkg/presence"
	"hanse/pkg/userdb"
	logv1 "hanse/proto/log/v1"
)

// Types of EDUs (server-server API, "Typing Notifications" and the following).
const (
	eduTyping     = "m.typing"
	eduPresence   = "m.presence"
	eduReceipt    = "m.receipt"
	eduDevices    = "m.device_list_update"
	eduSigningKey = "m.signing_key_update"
)

// eduRow is a row of fed_edu.
type eduRow struct {
	id      int64
	origin  id.Server
	typ     string
	dedup   *string
	content []byte
}

// rowsAtOnce bounds the rows of fed_edu that are read for one transaction; they leave room for other EDUs.
const rowsAtOnce = 40

// readEDUs reads the next rows for the destination, all from one server of ours. wake says which hints the answer has
// seen.
func (d *dest) readEDUs(ctx context.Context) (rows []eduRow, more bool, wake int, err error) {
	d.mu.Lock()
	has, wake := d.hasEDUs, d.eduWake
	d.mu.Unlock()
	if !has {
		return nil, false, wake, nil
	}
	found, err := d.f.s.shards.For(d.p.part).Query(ctx, sqlEDUs, int32(d.p.part), string(d.server), rowsAtOnce)
	if err != nil {
		return nil, false, 0, fmt.Errorf("read EDUs: %w", err)
	}
	rows, err = pgx.CollectRows(found, func(row pgx.CollectableRow) (r eduRow, err error) {
		err = row.Scan(&r.id, &r.origin, &r.typ, &r.dedup, &r.content)
		return r, err
	})
	if err != nil {
		return nil, false, 0, fmt.Errorf("read EDUs: %w", err)
	}
	for i := range rows {
		if rows[i].origin != rows[0].origin {
			return rows[:i:i], true, wake, nil
		}
	}
	return rows, len(rows) == rowsAtOnce, wake, nil
}

// noMoreEDUs notes that there are no more rows, unless a hint came since.
func (d *dest) noMoreEDUs(wake int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.eduWake == wake {
		d.hasEDUs = false
	}
}

// addRows puts rows into a transaction and returns the ids of those that are done with it. Of rows with the same key
// only the last one is sent.
func (t *transaction) addRows(rows []eduRow) []int64 {
	last := make(map[string]int)
	for i, r := range rows {
		if r.dedup != nil {
			last[r.typ+"\x00"+*r.dedup] = i
		}
	}
	var done []int64
	for i, r := range rows {
		superseded := r.dedup != nil && last[r.typ+"\x00"+*r.dedup] != i
		if !superseded && json.Valid(r.content) {
			if len(t.edus) == maxEDUs {
				break
			}
			t.edus = append(t.edus, edu{r.typ, r.content})
			t.bytes += len(r.content)
		}
		done = append(done, r.id)
	}
	return done
}

// dropEDUs deletes rows that were acknowledged.
func (d *dest) dropEDUs(ctx context.Context, ids []int64) error {
	if len(ids) == 0 {
		return nil
	}
	if _, err := d.f.s.shards.For(d.p.part).Exec(ctx, sqlDropEDU, int32(d.p.part), string(d.server), ids); err != nil {
		return fmt.Errorf("delete EDUs: %w", err)
	}
	return nil
}

// receipts collects read receipts: one EDU for all rooms, and more where a user has several in one room (threads).
type receipts struct {
	// layers hold, by room and user, one receipt each.
	layers []map[string]map[id.User]receipt
}

type receipt struct {
	Events []string    `json:"event_ids"`
	Data   receiptData `json:"data"`
}

type receiptData struct {
	TS     int64  `json:"ts"`
	Thread string `json:"thread_id,omitempty"`
}

func newReceipts() *receipts { return new(receipts) }

func (r *receipts) add(room string, user id.User, thread, event string, ts int64) {
	one := receipt{[]string{event}, receiptData{ts, thread}}
	for _, layer := range r.layers {
		old, ok := layer[room][user]
		if ok && old.Data.Thread != thread {
			continue
		}
		if layer[room] == nil {
			layer[room] = make(map[id.User]receipt)
		}
		layer[room][user] = one // the newer one
		return
	}
	r.layers = append(r.layers, map[string]map[id.User]receipt{room: {user: one}})
}

func (r *receipts) into(t *transaction) error {
	for _, layer := range r.layers {
		content := make(map[string]any, len(layer))
		for room, users := range layer {
			content[room] = map[string]any{"m.read": users}
		}
		if err := t.addEDU(eduReceipt, content); err != nil {
			return err
		}
	}
	return nil
}

// deviceChanges collects changes of device lists.
type deviceChanges map[id.User]map[int64]id.Device

func newDeviceChanges() deviceChanges { return make(deviceChanges) }

func (c deviceChanges) add(e *logv1.DeviceChange) {
	user := id.User(e.UserId)
	if c[user] == nil {
		c[user] = make(map[int64]id.Device)
	}
	c[user][e.StreamId] = id.Device(e.DeviceId)
}

// knownStreams bounds what a destination remembers of device lists that it was told of.
const knownStreams = 1000

// addDevices puts changes of device lists into a transaction (server-server API, "Device Management"). The same
// change comes once for each room; only the first one is sent. prev_id names the change before: a receiver that has
// not seen it fetches the list.
func (d *dest) addDevices(ctx context.Context, t *transaction, changes deviceChanges) error {
	for user, streams := range changes {
		for stream := range streams {
			if stream <= d.streams[user] {
				delete(streams, stream)
			}
		}
		if len(streams) == 0 {
			delete(changes, user)
		}
	}
	if len(changes) == 0 {
		return nil
	}
	users := slices.Sorted(maps.Keys(changes))
	keys, err := d.f.s.users.KeysOf(ctx, users, "")
	if err != nil {
		return err
	}
	if d.streams == nil || len(d.streams) > knownStreams {
		d.streams = make(map[id.User]int64)
	}
	for _, user := range users {
		if err := d.addUserDevices(ctx, t, user, changes[user], keys[user]); err != nil {
			return err
		}
	}
	return nil
}

// deviceUpdate is the content of m.device_list_update.
type deviceUpdate struct {
	User    id.User         `json:"user_id"`
	Device  id.Device       `json:"device_id"`
	Name    string          `json:"device_display_name,omitempty"`
	Stream  int64           `json:"stream_id"`
	Prev    []int64         `json:"prev_id"`
	Deleted bool            `json:"deleted,omitempty"`
	Keys    json.RawMessage `json:"keys,omitempty"`
}

func (d *dest) addUserDevices(ctx context.Context, t *transaction, user id.User, streams map[int64]id.Device, keys *userdb.UserKeys) error {
	order := slices.Sorted(maps.Keys(streams))
	newest := make(map[id.Device]int64, len(order))
	for _, stream := range order {
		newest[streams[stream]] = stream
	}
	prev := order[0] - 1
	for _, stream := range order {
		device := streams[stream]
		if newest[device] != stream {
			continue // a later change says all
		}
		if device == "" {
			if err := addSigningKeys(t, user, keys); err != nil {
				return err
			}
			continue
		}
		u := deviceUpdate{User: user, Device: device, Stream: stream, Prev: []int64{}}
		if prev > 0 {
			u.Prev = append(u.Prev, prev)
		}
		if keys != nil && keys.Devices[device] != nil {
			u.Keys, u.Name = keys.Devices[device], keys.Names[device]
		} else {
			exists, err := d.f.deviceExists(ctx, user, device)
			if err != nil {
				return err
			}
			u.Deleted = !exists
		}
		if err := t.addEDU(eduDevices, u); err != nil {
			return err
		}
		prev = stream
	}
	d.streams[user] = max(d.streams[user], order[len(order)-1])
	return nil
}

func addSigningKeys(t *transaction, user id.User, keys *userdb.UserKeys) error {
	if keys == nil || keys.CrossSigning[userdb.MasterKey] == nil {
		return nil
	}
	content := map[string]any{"user_id": user, "master_key": keys.CrossSigning[userdb.MasterKey]}
	if k := keys.CrossSigning[userdb.SelfSigningKey]; k != nil {
		content["self_signing_key"] = k
	}
	return t.addEDU(eduSigningKey, content)
}

func (f *sender) deviceExists(ctx context.Context, user id.User, device id.Device) (bool, error) {
	devices, err := f.s.users.Devices(ctx, user)
	if err != nil {
		return false, err
	}
	for _, have := range devices {
		if have.DeviceID == string(device) {
			return true, nil
		}
	}
	return false, nil
}

// ephemeralOrigin is a server of ours that has typing or presence to send.
func (d *dest) ephemeralOrigin() id.Server {
	d.mu.Lock()
	defer d.mu.Unlock()
	for key := range d.typing {
		return key.user.Server()
	}
	for user := range d.presence {
		return user.Server()
	}
	return ""
}

// addEphemeral adds typing and presence of the transaction's origin as far as there is room. What does not arrive is
// lost.
func (d *dest) addEphemeral(t *transaction) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for key, typing := range d.typing {
		if key.user.Server() != t.origin {
			continue
		}
		if len(t.edus) >= maxEDUs-1 {
			return nil
		}
		delete(d.typing, key)
		if err := t.addEDU(eduTyping, map[string]any{"room_id": key.room, "user_id": key.user, "typing": typing.Typing}); err != nil {
			return err
		}
	}
	var push []any
	now := time.Now()
	for user, p := range d.presence {
		if user.Server() != t.origin || len(t.edus) >= maxEDUs || len(push) >= 100 {
			continue
		}
		delete(d.presence, user)
		push = append(push, presenceOf(p, now))
	}
	if push == nil {
		return nil
	}
	return t.addEDU(eduPresence, map[string]any{"push": push})
}

// presenceOf is what m.presence says of a user (server-server API, "Presence").
func presenceOf(p *logv1.Presence, now time.Time) map[string]any {
	out := map[string]any{"user_id": p.UserId, "presence": p.Presence, "currently_active": p.CurrentlyActive,
		"last_active_ago": presence.Ago(p, now).Milliseconds()}
	if p.StatusMsg != "" {
		out["status_msg"] = p.StatusMsg
	}
	return out
}
