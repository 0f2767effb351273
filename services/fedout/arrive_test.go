package fedout

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/id"
	"hanse/pkg/userdb"
	logv1 "hanse/proto/log/v1"
)

// person is a local user with keys.
type person struct {
	w     *world
	user  id.User
	users *userdb.DB
	seq   int64
}

func (w *world) person(name string) *person {
	return &person{w: w, user: id.NewUser(name, ours), users: userdb.New(w.shards, w.bus)}
}

// uploads gives a device new keys and returns the change of the device list.
func (p *person) uploads(device id.Device) *logv1.Entry {
	p.w.t.Helper()
	if _, err := p.users.PutDevice(p.w.t.Context(), p.user, device, nil); err != nil {
		p.w.t.Fatal(err)
	}
	p.seq++
	task, err := p.users.UploadKeys(p.w.t.Context(), userdb.KeyUpload{User: p.user, Device: device, Identity: fmt.Appendf(nil, `{"device_id":%q,"n":%d}`, device, p.seq)})
	if err != nil {
		p.w.t.Fatal(err)
	}
	return p.change(*task)
}

// signs gives the user new cross-signing keys.
func (p *person) signs() *logv1.Entry {
	p.w.t.Helper()
	p.seq++
	key := fmt.Appendf(nil, `{"keys":{"ed25519:%d":"%d"}}`, p.seq, p.seq)
	task, err := p.users.PutCrossSigningKeys(p.w.t.Context(), p.user, map[string]json.RawMessage{userdb.MasterKey: key})
	if err != nil {
		p.w.t.Fatal(err)
	}
	return p.change(task)
}

func (p *person) change(task userdb.Task) *logv1.Entry {
	var c userdb.DeviceChange
	if err := json.Unmarshal(task.Payload, &c); err != nil {
		p.w.t.Fatal(err)
	}
	return &logv1.Entry{Body: &logv1.Entry_DeviceChange{DeviceChange: &logv1.DeviceChange{UserId: string(p.user), DeviceId: string(c.Device), StreamId: c.StreamID, Local: true}}}
}

// joined puts a join into the membership index.
func (p *person) joined(r *room) {
	p.w.t.Helper()
	p.seq++
	_, err := p.w.shards.For(0).Exec(p.w.t.Context(), `INSERT INTO membership (part, user_id, room_id, room_part, room_nid, room_version, membership, event_nid, event_id, sender, pos, seq, join_seq)
		VALUES ($1, $2, $3, $4, $5, '10', 'join', 1, '$e', $2, 1, $6, $6)`, partOf(string(p.user)), string(p.user), r.id, int32(r.part), r.nid, p.seq)
	if err != nil {
		p.w.t.Fatal(err)
	}
}

// joins puts a join into the index and then into the room's log.
func (p *person) joins(r *room, local bool) string {
	p.w.t.Helper()
	p.joined(r)
	return r.member(string(p.user), string(p.user), "", "join", local)
}

// lists is what a server was told of device lists: device, stream_id and prev_id of each update.
func (r *remote) lists() (told []string) {
	for _, content := range r.edus(eduDevices) {
		u := gjson.Parse(content)
		told = append(told, fmt.Sprintf("%s %s%d %s", u.Get("user_id"), u.Get("device_id"), u.Get("stream_id").Int(), u.Get("prev_id").Raw))
	}
	return told
}

// Server-server API, "Device Management", "End-to-End Encryption": each change reaches other servers, whatever they were told
// before: cross-signing keys that come alone, changes that come late, and such with others in between that come later.
func TestEachDeviceChangeIsTold(t *testing.T) {
	w := newWorld(t)
	a := w.remote()
	r, r2 := w.room("r", a.name), w.room("r2", a.name)
	w.start("one")
	p := w.person("a")
	first, second, third := p.uploads("A"), p.uploads("B"), p.uploads("C")
	r.log(first)
	a.until("no device list", func() bool { return len(a.lists()) == 1 })
	for i := range 2 {
		keys := p.signs()
		r.log(keys)
		r2.log(keys)
		a.until("no cross-signing keys", func() bool { return len(a.edus(eduSigningKey)) == i+1 })
	}
	r.log(third)
	a.until("no later change", func() bool { return slices.Contains(a.lists(), "@a:ours.test C3 [2]") })
	r2.log(third, second)
	a.until("the late change was swallowed", func() bool { return slices.Contains(a.lists(), "@a:ours.test B2 [1]") })
	fourth, fifth, sixth, seventh := p.uploads("A"), p.uploads("B"), p.uploads("C"), p.uploads("C")
	r.log(fourth, sixth, seventh)
	a.until("no updates with a gap", func() bool { return len(a.lists()) == 5 })
	r.log(fifth)
	a.until("what was in the gap was swallowed", func() bool { return len(a.lists()) == 6 })
	want := []string{"@a:ours.test A1 []", "@a:ours.test C3 [2]", "@a:ours.test B2 [1]", "@a:ours.test A4 [3]", "@a:ours.test C7 [5]", "@a:ours.test B5 [4]"}
	if got := a.lists(); !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
	if got := a.edus(eduSigningKey); len(got) != 2 || !strings.Contains(got[1], `"keys":{"ed25519:5":"5"}`) {
		t.Errorf("cross-signing keys %q", got)
	}
}

// Server-server API, "Device Management": servers in a room that a local user joins are told of the user's devices if no
// room told them before. So are those that are away, and those that are found when the members of a room become known.
func TestDevicesOfArrivals(t *testing.T) {
	w := newWorld(t)
	old, fresh, via, away, late := w.remote(), w.remote(), w.remote(), w.remote(), w.remote()
	before, r, through, partial := w.room("before", old.name), w.room("r", old.name, fresh.name, away.name), w.room("through", via.name), w.room("partial", old.name)
	w.start("one")
	p := w.person("a")
	p.uploads("A")
	p.uploads("B")
	p.signs()
	p.joined(before)
	away.down()

	told := func(s *remote) {
		t.Helper()
		s.until("not told of devices", func() bool { return len(s.lists()) >= 2 && len(s.edus(eduSigningKey)) > 0 })
		if got, want := s.lists()[:2], []string{"@a:ours.test A2 [2]", "@a:ours.test B2 [2]"}; !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
	}
	join := p.joins(r, true)
	fresh.gets(join)
	told(fresh)
	p.joins(through, false) // the server that we joined through sends the event, but knows nothing of devices
	told(via)
	if n := len(via.events()); n > 0 {
		t.Errorf("%d events sent that are another server's to send", n)
	}
	p.joined(partial)
	partial.holds(string(p.user))
	partial.count(late.name, 1)
	partial.log(&logv1.Entry{Body: &logv1.Entry_Filled{Filled: &logv1.Filled{CurrentBefore: 1, CurrentAfter: 2}}})
	told(late)
	away.up()
	w.heard(away)
	away.gets(join)
	told(away)

	last := r.send("x")
	old.gets(append(last, join)...)
	if got := old.lists(); len(got) > 0 {
		t.Errorf("a server that hears of the user's devices was told again: %q", got)
	}
}

// The same for a server that was away while the members of a room became known.
func TestDevicesOfArrivalsAfterOutage(t *testing.T) {
	w := newWorld(t)
	a := w.remote()
	r := w.room("r")
	k := w.start("one")
	p := w.person("a")
	p.uploads("A")
	p.joined(r)
	r.holds(string(p.user))
	r.count(a.name, 1)
	a.down()
	r.log(&logv1.Entry{Body: &logv1.Entry_Filled{Filled: &logv1.Filled{CurrentBefore: 1, CurrentAfter: 2}}})
	w.waitFor("not behind", func() bool { return behindCount(k) > 0 })
	a.up()
	w.heard(a)
	a.until("not told of devices", func() bool { return slices.Equal(a.lists(), []string{"@a:ours.test A1 [1]"}) })
}
