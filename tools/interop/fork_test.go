//go:build interop

package interop

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"hanse/tools/mxclient"
)

// fork is a room of both servers that is written to by both while they are apart. Its people are shared by all forks of a
// test: a cut is for all rooms at once.
type fork struct {
	name, version, room string
	cast

	sent []string // events that the people sent
	what map[string]sent
	errs []error
	// gaps: a server is out of the room for a while, and gets what was said meanwhile when somebody reads it.
	gaps bool
	// creators: the guest is a creator, too (room version 12).
	creators bool
	// parted: a server is not in the room any more.
	parted bool
	// old are the events of the room's making. Sending a state again that is so already gives the event that made it so.
	old map[string]bool
}

// sent is what is remembered of an event.
type sent struct {
	what string
	by   *person
}

// cast are the members of a fork. boss, who made the room, aide and clerk are of one server; guest, friend and rival of
// the other. stray and waif are in no room at first, one on each side.
type cast struct {
	boss, aide, clerk, stray   *person
	guest, friend, rival, waif *person
}

// Power levels at first: boss 100 (or the creator), guest 90, aide and friend 50, the others 0.
func newCast(t *testing.T, on, from server) cast {
	return cast{
		boss: newPerson(t, on), aide: newQuiet(t, on), clerk: newQuiet(t, on), stray: newQuiet(t, on),
		guest: newPerson(t, from), friend: newQuiet(t, from), rival: newQuiet(t, from), waif: newQuiet(t, from),
	}
}

// note keeps what went wrong: forks run in goroutines of their own.
func (f *fork) note(what string, err error) {
	if err != nil {
		f.errs = append(f.errs, fmt.Errorf("%s: %w", what, err))
	}
}

func (f *fork) add(p *person, eventID, what string) {
	if _, again := f.what[eventID]; again || f.old[eventID] {
		return
	}
	f.sent = append(f.sent, eventID)
	if f.what == nil {
		f.what = make(map[string]sent)
	}
	f.what[eventID] = sent{what, p}
}

func (f *fork) describe(e string) string {
	return fmt.Sprintf("%s (%s of %s)", e, f.what[e].what, f.what[e].by.id)
}

// set sends a state event, which must be allowed on the sender's side.
func (f *fork) set(p *person, typ, key string, content any) string {
	e, err := p.SendState(context.Background(), f.room, typ, key, content)
	f.note(fmt.Sprintf("%s sets %s %q", p.id, typ, key), err)
	if err == nil {
		f.add(p, e, typ)
	}
	return e
}

func (f *fork) say(p *person, text string) string {
	e, err := p.SendText(context.Background(), f.room, fmt.Sprintf("txn%d", everybody.Add(1)), text)
	f.note(fmt.Sprintf("%s says %q", p.id, text), err)
	if err == nil {
		f.add(p, e, text)
	}
	return e
}

func (f *fork) topic(p *person, text string) string {
	return f.set(p, "m.room.topic", "", map[string]string{"topic": text})
}

func (f *fork) title(p *person, text string) string {
	return f.set(p, "m.room.name", "", map[string]string{"name": text})
}

func (f *fork) member(p *person, target *person, membership string) string {
	return f.set(p, "m.room.member", target.id, map[string]string{"membership": membership})
}

func (f *fork) join(p *person, via ...string) {
	_, err := p.Join(context.Background(), f.room, via...)
	f.note(p.id+" joins", err)
}

func (f *fork) rule(p *person, rule string, allow ...string) string {
	content := map[string]any{"join_rule": rule}
	if len(allow) > 0 {
		var list []map[string]string
		for _, room := range allow {
			list = append(list, map[string]string{"type": "m.room_membership", "room_id": room})
		}
		content["allow"] = list
	}
	return f.set(p, "m.room.join_rules", "", content)
}

// power changes power levels: users' by their ids, others by their keys.
func (f *fork) power(p *person, change map[string]any) string {
	var now map[string]any
	err := p.StateContent(context.Background(), f.room, "m.room.power_levels", "", &now)
	f.note(p.id+" reads the power levels", err)
	if err != nil {
		return ""
	}
	users, _ := now["users"].(map[string]any)
	if users == nil {
		users = make(map[string]any)
	}
	for key, level := range change {
		if strings.HasPrefix(key, "@") {
			users[key] = level
		} else {
			now[key] = level
		}
	}
	now["users"] = users
	return f.set(p, "m.room.power_levels", "", now)
}

// open makes the room and brings everybody in who is in it at first.
func (f *fork) open(ctx context.Context) error {
	users := map[string]any{f.guest.id: 90, f.aide.id: 50, f.friend.id: 50}
	if f.version != "12" {
		users[f.boss.id] = 100
	}
	var content map[string]any
	if f.creators {
		delete(users, f.guest.id)
		content = map[string]any{"additional_creators": []string{f.guest.id}}
	}
	var err error
	f.room, err = f.boss.CreateRoom(ctx, mxclient.NewRoom{RoomVersion: f.version, Preset: "public_chat", Name: f.name, CreationContent: content,
		PowerLevels: map[string]any{"users": users, "events": map[string]any{"m.room.power_levels": 50}}})
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	for _, p := range []*person{f.guest, f.friend, f.rival, f.aide, f.clerk} {
		if _, err := p.Join(ctx, f.room, f.boss.server.serverName); err != nil {
			return fmt.Errorf("join: %w", err)
		}
	}
	if err := within(patience, func() error { return f.agree(ctx) }); err != nil {
		return err
	}
	made, err := f.boss.History(ctx, f.room, "", nil)
	if err != nil {
		return err
	}
	f.old = make(map[string]bool)
	for _, e := range made {
		f.old[e.EventID] = true
	}
	return nil
}
