//go:build goexperiment.jsonv2

package authdiff

import (
	"encoding/json/v2"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/federation/eventauth"
	"maunium.net/go/mautrix/federation/pdu"
	mid "maunium.net/go/mautrix/id"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/matrix/stateres/roomgen"
)

// Both judge each event of random rooms, and events that were proposed but not
// accepted, by their auth events.
func TestSameVerdict(t *testing.T) {
	for _, version := range roomversion.Supported()[2:] {
		t.Run(version, func(t *testing.T) {
			var allowed, refused int
			for seed := range uint64(10) {
				g, err := roomgen.Random(rand.New(rand.NewPCG(seed, 42)), roomgen.Config{Version: version, Events: 50})
				if err != nil {
					t.Fatal(err)
				}
				for _, ev := range g.Events {
					compare(t, g.Room, ev)
				}
				for range 150 {
					ev, _, err := g.Propose()
					if err != nil {
						t.Fatal(err)
					}
					if compare(t, g.Room, ev) {
						allowed++
					} else {
						refused++
					}
				}
			}
			if allowed < 100 || refused < 100 {
				t.Errorf("%d allowed, %d refused: too few to tell", allowed, refused)
			}
		})
	}
}

// compare returns whether the event is allowed.
func compare(t *testing.T, r *roomgen.Room, ev *event.PDU) bool {
	t.Helper()
	ours, theirs := judge(t, r, ev), judgeOther(t, r, ev)
	if (ours == nil) != (theirs == nil) {
		t.Fatalf("%s\nours: %v\ntheirs: %v", ev.JSON, ours, theirs)
	}
	var refused *auth.Error
	if ours != nil && !errors.As(ours, &refused) {
		t.Fatalf("not a refusal: %v", ours)
	}
	if errors.Is(theirs, errPanicked) {
		if ev.Type != "m.room.power_levels" {
			t.Errorf("%s\n%v", ev.JSON, theirs)
		}
		return false
	}
	if ours != nil && !sameGroup(r.Rules, refused.Rule, theirs) {
		t.Errorf("%s\nours: %v\ntheirs: %v", ev.JSON, ours, theirs)
	}
	return ours == nil
}

// sameGroup compares the rules that refused by their first number, as version
// 12 numbers it.
func sameGroup(rules *roomversion.Rules, ours string, theirs error) bool {
	var other eventauth.AuthFailError
	if !errors.As(theirs, &other) {
		return false
	}
	first, _, _ := strings.Cut(ours, ".")
	theirFirst, _, _ := strings.Cut(other.Index, ".")
	var n int
	if _, err := fmt.Sscan(first, &n); err != nil {
		return false
	}
	switch {
	case n >= 4 && !rules.SpecialAliasesAuth && !rules.RoomIDIsCreateHash, n == 2 || n == 3:
		if !rules.RoomIDIsCreateHash {
			n++
		}
	}
	return fmt.Sprint(n) == theirFirst
}

func judge(t *testing.T, r *roomgen.Room, ev *event.PDU) error {
	t.Helper()
	var events auth.Events
	for _, a := range ev.AuthEvents {
		aev, err := r.Event(a)
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, aev)
	}
	if err := auth.CheckAuthEvents(ev, events); err != nil {
		return err
	}
	if r.Rules.RoomIDIsCreateHash {
		events = append(events, r.Create)
	}
	return auth.Check(ev, events, auth.Options{AuthoriserSigned: verify})
}

func verify(ev *event.PDU, server id.Server) error {
	for _, k := range signing.SignatureKeyIDs(ev.JSON, server) {
		if err := ev.Verify(server, k, roomgen.ServerKey(server).Public()); err == nil {
			return nil
		}
	}
	return errors.New("no valid signature")
}

// errPanicked: mautrix reads through a nil pointer where the entry of a user
// with at least the sender's level is removed from the power levels.
var errPanicked = errors.New("mautrix panicked")

func judgeOther(t *testing.T, r *roomgen.Room, ev *event.PDU) (err error) {
	t.Helper()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errPanicked, p)
		}
	}()
	get := func(ids []mid.EventID) ([]*pdu.PDU, error) {
		var events []*pdu.PDU
		for _, e := range ids {
			known, err := r.Event(id.Event(e))
			if err != nil {
				return nil, err
			}
			other := convert(t, known)
			if other.RoomID == "" && len(ids) > 1 {
				other.RoomID = mid.RoomID(known.RoomID)
			}
			events = append(events, other)
		}
		return events, nil
	}
	key := func(server string, _ mid.KeyID, _ time.Time) (mid.SigningKey, time.Time, error) {
		public := roomgen.ServerKey(id.Server(server)).Public()
		return mid.SigningKey(signing.Encode(public)), time.Now().Add(24 * time.Hour), nil
	}
	return eventauth.Authorize(mid.RoomVersion(r.Rules.Version), convert(t, ev), get, key)
}

func convert(t *testing.T, ev *event.PDU) *pdu.PDU {
	t.Helper()
	var other pdu.PDU
	if err := json.Unmarshal(ev.JSON, &other); err != nil {
		t.Fatalf("%s: %v", ev.JSON, err)
	}
	return &other
}
