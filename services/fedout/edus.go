package fedout

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/canonjson"
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

// readEDUs reads the next rows for the destination, all from one local server. wake says which hints the answer has
// seen.
func (d *dest) readEDUs(ctx context.Context) (rows []eduRow, more bool, wake int, err error) {
	d.mu.Lock()
	has, wake := d.hasEDUs, d.eduWake
	d.mu.Unlock()
	if !has {
		return nil, false, wake, nil
	}
	found, err := d.f.s.shards.For(d.p.N).Query(ctx, sqlEDUs, int32(d.p.N), string(d.server), rowsAtOnce)
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
		if !superseded && deliverable(r) {
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

// maxContent is how deep the content of an EDU may nest for all servers to take it.
const maxContent = 100

// deliverable says whether a row can be part of a transaction that others take. One that has no canonical form cannot be
// signed, and one with a zero byte in a name was refused as a whole by some servers: neither must keep back what is behind.
func deliverable(r eduRow) bool {
	if canonjson.Check(r.content, maxContent) != nil {
		return false
	}
	if r.typ != "m.direct_to_device" {
		return true
	}
	var m struct {
		Type      string                                    `json:"type"`
		MessageID string                                    `json:"message_id"`
		Messages  map[id.User]map[id.Device]json.RawMessage `json:"messages"`
	}
	if canonjson.Decode(r.content, &m) != nil || strings.ContainsRune(m.Type+m.MessageID, 0) {
		return false
	}
	for u, devices := range m.Messages {
		if strings.ContainsRune(string(u), 0) {
			return false
		}
		for device := range devices {
			if strings.ContainsRune(string(device), 0) {
				return false
			}
		}
	}
	return true
}

// dropEDUs deletes rows that were acknowledged.
func (d *dest) dropEDUs(ctx context.Context, ids []int64) error {
	if len(ids) == 0 {
		return nil
	}
	if _, err := d.f.s.shards.For(d.p.N).Exec(ctx, sqlDropEDU, int32(d.p.N), string(d.server), ids); err != nil {
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

// deviceChange is a change of a device list, or for device "" of cross-signing keys, with its number among those of its kind.
type deviceChange struct {
	user   id.User
	device id.Device
	stream int64
}

// deviceChanges collects changes of device lists: the same one comes once for each room.
type deviceChanges map[deviceChange]struct{}

func (c deviceChanges) add(e *logv1.DeviceChange) {
	c[deviceChange{id.User(e.UserId), id.Device(e.DeviceId), e.StreamId}] = struct{}{}
}

// knownChanges bounds what a destination remembers of changes that it was told of.
const knownChanges = 1000

// addDevices puts changes of device lists into a transaction (server-server API, "Device Management"), but for those that the
// destination was told of. A change that comes late, after newer ones, is told like others: nothing else may bring it.
func (d *dest) addDevices(ctx context.Context, t *transaction, changes deviceChanges) error {
	byUser := make(map[id.User][]deviceChange)
	for c := range changes {
		if _, ok := d.told[c]; !ok {
			byUser[c.user] = append(byUser[c.user], c)
		}
	}
	if len(byUser) == 0 {
		return nil
	}
	users := slices.Sorted(maps.Keys(byUser))
	keys, err := d.f.s.users.KeysOf(ctx, users, "")
	if err != nil {
		return err
	}
	if d.told == nil || len(d.told) > knownChanges {
		d.told = make(map[deviceChange]struct{})
	}
	for _, user := range users {
		if err := d.addUserDevices(ctx, t, user, byUser[user], keys[user]); err != nil {
			return err
		}
		for _, c := range byUser[user] {
			d.told[c] = struct{}{}
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

// addUserDevices tells of a user's changes. prev_id names the change before: a receiver that has not seen it fetches the list.
func (d *dest) addUserDevices(ctx context.Context, t *transaction, user id.User, changes []deviceChange, keys *userdb.UserKeys) error {
	slices.SortFunc(changes, func(a, b deviceChange) int { return cmp.Compare(a.stream, b.stream) })
	newest := make(map[id.Device]int64, len(changes))
	for _, c := range changes {
		newest[c.device] = c.stream
	}
	var last, prev int64 // the last change that was looked at, and what the next update goes on from
	for _, c := range changes {
		if c.device == "" {
			continue
		}
		if c.stream != last+1 {
			prev = c.stream - 1
		}
		if last = c.stream; newest[c.device] != c.stream {
			continue // a later change says all
		}
		u := deviceUpdate{User: user, Device: c.device, Stream: c.stream, Prev: []int64{}}
		if prev > 0 {
			u.Prev = append(u.Prev, prev)
		}
		if keys != nil && keys.Devices[c.device] != nil {
			u.Keys, u.Name = keys.Devices[c.device], keys.Names[c.device]
		} else {
			exists, err := d.f.deviceExists(ctx, user, c.device)
			if err != nil {
				return err
			}
			u.Deleted = !exists
		}
		if err := t.addEDU(eduDevices, u); err != nil {
			return err
		}
		prev = c.stream
	}
	if _, ok := newest[""]; ok {
		return addSigningKeys(t, user, keys)
	}
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

// ephemeralOrigin is a local server that has typing or presence to send.
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
