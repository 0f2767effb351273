package sync

import (
	"context"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/pushrule"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/token"
	"hanse/pkg/userdb"
)

// extensions is what the extensions of sliding sync tell; what is nil was not asked for.
type extensions struct {
	toDevice    *toDeviceTold
	keys        *deviceKeys
	devices     deviceLists
	accountData *dataTold
	receipts    map[id.Room][]byte
	typing      map[id.Room][]byte
}

type toDeviceTold struct {
	next   string
	events [][]byte
}

type dataTold struct {
	global [][]byte
	rooms  map[id.Room][][]byte
}

// dataSince reads the account data that has changed since the client's position, or all of it that is not of rooms, of which only
// those are told of that are in sight.
func (s *Service) dataSince(ctx context.Context, p *slide, m *moment) ([]userdb.AccountData, error) {
	if p.since == nil {
		if p.req.AccountData == nil {
			return nil, nil
		}
		return s.userdb.AccountDataOfRooms(ctx, p.who.User, []id.Room{""})
	}
	if m.seq <= p.since.UserSeq {
		return nil, nil
	}
	data, err := s.userdb.AccountDataSince(ctx, p.who.User, p.since.UserSeq, m.seq)
	if err != nil {
		return nil, err
	}
	p.user.learn(data, p.since.UserSeq, m.seq)
	p.user.learnKinds(data, p.since.UserSeq, m.seq)
	return data, nil
}

// addExtensions adds what the request's extensions tell.
func (s *Service) addExtensions(ctx context.Context, p *slide, m *moment, x *sight, a *slideAnswer, todo *todo, data []userdb.AccountData) error {
	if err := s.addSlideToDevice(ctx, p, m, a); err != nil {
		return err
	}
	if p.req.E2EE {
		if err := s.addSlideDevices(ctx, p, m, a, todo); err != nil {
			return err
		}
	}
	if p.req.AccountData != nil {
		if err := s.addSlideData(ctx, p, x, a, todo, data); err != nil {
			return err
		}
	}
	if p.req.Receipts != nil {
		if err := s.addSlideReceipts(ctx, p, m, a, todo); err != nil {
			return err
		}
	}
	if p.req.Typing != nil {
		s.addSlideTyping(p, m, x, a, todo)
	}
	return nil
}

// addSlideToDevice adds to-device messages (MSC3885). They are deleted when the client comes back with the token that proves it has
// got them.
func (s *Service) addSlideToDevice(ctx context.Context, p *slide, m *moment, a *slideAnswer) error {
	ext := p.req.ToDevice
	if ext == nil || p.device == "" {
		return nil
	}
	told := &toDeviceTold{}
	end := max(m.seq, p.ack)
	if m.seq > p.ack {
		var msgs []userdb.ToDevice
		var err error
		msgs, end, err = s.userdb.ToDeviceSince(ctx, p.who.User, p.device, p.ack, m.seq, ext.Limit, toDeviceBytes)
		if err != nil {
			return err
		}
		for i := range msgs {
			told.events = append(told.events, toDeviceEvent(&msgs[i]))
		}
	}
	told.next = toDeviceToken(p.who.User, p.device, end)
	a.ext.toDevice = told
	a.news = a.news || len(told.events) > 0
	return nil
}

// toDeviceToken is a position in the user's stream for one device.
func toDeviceToken(user id.User, device id.Device, seq int64) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(string(user) + "\x00" + string(device)))
	return "d" + strconv.FormatInt(seq, 10) + "_" + strconv.FormatUint(uint64(h.Sum32()), 36)
}

// ackToDevice deletes the to-device messages that the request proves to have arrived.
func (s *Service) ackToDevice(ctx context.Context, p *slide) error {
	ext := p.req.ToDevice
	if ext == nil || p.device == "" || ext.Since == "" {
		return nil
	}
	bad := merr.InvalidParam("extensions.to_device.since is no position of this device")
	digits, _, ok := strings.Cut(strings.TrimPrefix(ext.Since, "d"), "_")
	seq, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || seq < 0 || toDeviceToken(p.who.User, p.device, seq) != ext.Since {
		return bad
	}
	if seq > p.user.position() {
		raise(&p.user.latest, seq)
		if err := s.users.refresh(ctx, p.user); err != nil {
			return err
		}
		if seq > p.user.position() {
			return bad
		}
	}
	p.ack = seq
	if !p.user.acknowledge(p.device, seq) {
		return nil
	}
	_, err = s.userdb.AckToDevice(ctx, p.who.User, p.device, seq)
	return err
}

// addSlideDevices adds whose devices have changed, and what keys the device has on the server (MSC3884). The counts are in every
// answer: without them a client's cryptography stands still.
func (s *Service) addSlideDevices(ctx context.Context, p *slide, m *moment, a *slideAnswer, todo *todo) error {
	var err error
	if a.ext.keys, err = s.keysOf(ctx, &p.asker, m.seq); err != nil {
		return err
	}
	lists := &a.ext.devices
	if p.since == nil {
		return nil
	}
	if m.seq > p.since.UserSeq {
		noticed, err := s.userdb.DeviceNotices(ctx, p.who.User, p.since.UserSeq, m.seq)
		if err != nil {
			return err
		}
		for _, u := range noticed {
			lists.deviceChanged(u)
		}
	}
	if err := s.addMet(ctx, p, lists, todo.came); err != nil {
		return err
	}
	pr, err := s.prefsOf(ctx, p.user)
	if err != nil {
		return err
	}
	changed, err := s.changedSince(ctx, p.since, m)
	if err != nil {
		return err
	}
	known := make(map[id.Room]*task, len(todo.joined))
	for _, t := range todo.joined {
		known[t.r.Room] = t
	}
	for _, r := range p.user.withoutLeft(changed, p.since) {
		after, ok := p.since.At(r.RoomPart)
		if !ok {
			after = r.JoinPos - 1
		}
		var d *delta
		if t := known[r.Room]; t != nil && t.after == after {
			d = t.d
		}
		if d == nil {
			if d, err = s.delta(ctx, &p.asker, noEvents, pr, r, after, m.at(r.RoomPart)); err != nil {
				return err
			}
		}
		if err := s.addDeviceLists(ctx, lists, &p.asker, d); err != nil {
			return err
		}
	}
	for _, r := range todo.gone {
		if err := s.untoldLeft(ctx, lists, &p.asker, r); err != nil {
			return err
		}
	}
	a.news = a.news || len(lists.changed)+len(lists.left) > 0 || a.ext.keys != nil && a.ext.keys.news
	return nil
}

// addMet adds the members of rooms that the user has come into.
func (s *Service) addMet(ctx context.Context, p *slide, lists *deviceLists, rooms []*userdb.Membership) error {
	if len(rooms) == 0 {
		return nil
	}
	keys := make([]roomdb.RoomKey, len(rooms))
	for i, r := range rooms {
		keys[i] = roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}
	}
	rows, err := s.rooms.RoomsByNID(ctx, keys)
	if err != nil {
		return err
	}
	for _, row := range rows {
		members, err := s.rooms.State(ctx, row.Part, row.SID)
		if err != nil {
			return err
		}
		if err := s.membersChanged(ctx, lists, &p.asker, row, members); err != nil {
			return err
		}
	}
	return nil
}

// addSlideData adds account data (MSC3959): what has changed, and all of rooms that the client did not know or was not told of.
func (s *Service) addSlideData(ctx context.Context, p *slide, x *sight, a *slideAnswer, todo *todo, data []userdb.AccountData) error {
	told := &dataTold{}
	a.ext.accountData = told
	whole := make(map[id.Room]bool)
	for _, t := range slices.Concat(todo.joined, todo.others) {
		if t.seen != nil && (t.initial || t.known && !t.was.Live) && t.seen.In(p.req.AccountData, t.r.Room) {
			whole[t.r.Room] = true
		}
	}
	pushRulesStored := p.since != nil
	for _, d := range data {
		switch {
		case d.Room == "":
			told.global = append(told.global, basicEvent(d.Type, d.Content))
			pushRulesStored = pushRulesStored || d.Type == pushRules
		case whole[d.Room]:
		default:
			pl := x.o.of(d.Room)
			if v := x.of(d.Room, pl); v != nil && pl != nil && v.In(p.req.AccountData, d.Room) {
				told.add(d)
			}
		}
	}
	if !pushRulesStored { // clients expect the rules of a user who never changed any
		content, err := pushrule.Defaults(p.who.User).ContentJSON()
		if err != nil {
			return err
		}
		told.global = append(told.global, basicEvent(pushRules, content))
	}
	if len(whole) > 0 {
		all, err := s.userdb.AccountDataOfRooms(ctx, p.who.User, sortedRooms(whole))
		if err != nil {
			return err
		}
		for _, d := range all {
			told.add(d)
		}
	}
	a.news = a.news || len(told.global)+len(told.rooms) > 0
	return nil
}

func (d *dataTold) add(data userdb.AccountData) {
	if d.rooms == nil {
		d.rooms = make(map[id.Room][][]byte)
	}
	d.rooms[data.Room] = append(d.rooms[data.Room], basicEvent(data.Type, data.Content))
}

// addSlideReceipts adds receipts (MSC3960): new ones of rooms that the client knows; of others, those for the events that it is told
// of, and the user's own.
func (s *Service) addSlideReceipts(ctx context.Context, p *slide, m *moment, a *slideAnswer, todo *todo) error {
	var spans []roomdb.ReceiptSpan
	var asked []*task
	all := make(map[id.Room][]receipt)
	for _, t := range todo.joined {
		switch {
		case t.seen == nil || !t.seen.In(p.req.Receipts, t.r.Room):
		case t.initial || t.d == nil:
			asked = append(asked, t)
			spans = append(spans, roomdb.ReceiptSpan{RoomKey: t.key(), Events: a.told[t.r.Room]})
		case len(t.d.receipts) > 0:
			all[t.r.Room] = t.d.receipts
		}
	}
	found, err := s.rooms.ReceiptsFor(ctx, spans, p.who.User)
	if err != nil {
		return err
	}
	for _, t := range asked {
		if rs := receiptsFor(found[t.key()], p.who.User); len(rs) > 0 {
			all[t.r.Room] = rs
		}
	}
	a.ext.receipts = make(map[id.Room][]byte, len(all))
	for room, rs := range all {
		a.ext.receipts[room] = receiptEvent(rs)
	}
	a.news = a.news || len(all) > 0
	return nil
}

// addSlideTyping adds who types (MSC3961).
func (s *Service) addSlideTyping(p *slide, m *moment, x *sight, a *slideAnswer, todo *todo) {
	a.ext.typing = make(map[id.Room][]byte)
	since := token.Ephemeral{}
	if p.since != nil {
		since = p.since.Eph
	}
	for _, t := range todo.joined {
		if t.seen == nil || !t.initial || !t.seen.In(p.req.Typing, t.r.Room) {
			continue
		}
		if tell, _ := s.typing.changed(t.r.Room, token.Ephemeral{}); tell {
			a.ext.typing[t.r.Room] = s.typing.event(t.r.Room)
		}
	}
	if p.since == nil || !s.typing.any(since) {
		return
	}
	for _, room := range s.typing.typed() {
		pl := x.o.of(room)
		if pl == nil || pl.r.Membership != "join" || a.ext.typing[room] != nil {
			continue
		}
		v := x.of(room, pl)
		if v == nil || !v.In(p.req.Typing, room) {
			continue
		}
		if tell, news := s.typing.changed(room, since); tell {
			a.ext.typing[room] = s.typing.event(room)
			a.news = a.news || news
		}
	}
}

// append writes the extensions.
func (e *extensions) append(b []byte) []byte {
	start := len(b)
	begin := func(name string) {
		if len(b) > start {
			b = append(b, ',')
		}
		b = append(canonjson.AppendString(b, name), ':', '{')
	}
	if t := e.toDevice; t != nil {
		begin("to_device")
		b = canonjson.AppendString(append(b, `"next_batch":`...), t.next)
		b = append(appendItems(append(b, `,"events":[`...), t.events), ']', '}')
	}
	if e.keys != nil {
		begin("e2ee")
		at := len(b)
		b = e.keys.append(b)
		b = slices.Delete(b, at, at+1) // the comma
		b = append(e.devices.append(b), '}')
	}
	if d := e.accountData; d != nil {
		begin("account_data")
		b = append(appendItems(append(b, `"global":[`...), d.global), `],"rooms":{`...)
		for i, room := range sortedRooms(d.rooms) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendItems(append(canonjson.AppendString(b, string(room)), ':', '['), d.rooms[room]), ']')
		}
		b = append(b, '}', '}')
	}
	for _, r := range []struct {
		name  string
		rooms map[id.Room][]byte
	}{{"receipts", e.receipts}, {"typing", e.typing}} {
		if r.rooms == nil {
			continue
		}
		begin(r.name)
		b = append(b, `"rooms":{`...)
		for i, room := range sortedRooms(r.rooms) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(append(canonjson.AppendString(b, string(room)), ':'), r.rooms[room]...)
		}
		b = append(b, '}', '}')
	}
	return b
}
