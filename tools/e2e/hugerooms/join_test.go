package hugerooms

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/tools/hugeroom"
	"hanse/tools/hugeroom/peer"
	"hanse/tools/mxclient"
)

// Somebody joins a room of many members on many servers (server-server API, "Joining Rooms"): how soon they can write and
// be heard, how much was sent for that, and when the server knows the whole state. A room in the same partition goes on
// meanwhile.
func TestJoin(t *testing.T) {
	cfg := hugeroom.Scaled(size(t, 4000, hugeroom.Largest().Members))
	p := serve(t, cfg, peer.Config{OmitMembers: true})
	users := register(t, shared, "joiner", "besidejoin", "besidesjoin")
	room := string(roomID(t, p))
	beside := newSide(t, shared, room, users[1:])
	warm(beside)
	quiet(beside)
	j := joining{t: t, peer: p, who: users[0], room: room, begin: time.Now()}
	meanwhile("the join", func() {
		j.join()
		j.speak()
		j.whole()
		j.heard()
	}, beside)
	beside.compare("the join")
	asked(t, p)
}

// The owner of the room dies while it takes the room in: whoever asks again gets in, and the room is whole in the end.
func TestJoinKilled(t *testing.T) {
	var held atomic.Bool
	begun, release := make(chan struct{}), make(chan struct{})
	cfg := hugeroom.Scaled(size(t, 1500, 100_000))
	cfg.Seed = 2
	p := serve(t, cfg, peer.Config{OmitMembers: true, Before: func(endpoint string, r *http.Request) error {
		// A join may be whole at once, or ask for the rest afterwards: in both cases this is the middle of it.
		if (endpoint == "send_join" || strings.HasPrefix(endpoint, "state")) && !held.Swap(true) {
			close(begun)
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		return nil
	}})
	who := register(t, shared, "killed")[0]
	j := joining{t: t, peer: p, who: who, room: string(roomID(t, p)), begin: time.Now()}
	joined := make(chan error, 1)
	go func() {
		_, err := who.Join(t.Context(), j.room, string(p.Resident()))
		joined <- err
	}()
	select {
	case <-begun:
	case err := <-joined:
		t.Fatalf("joined before anything was asked: %v", err)
	case <-time.After(patience()):
		t.Fatal("nothing is asked")
	}
	i := ownerOf(t, j.room)
	if err := shared.Kill("room", i); err != nil {
		t.Fatal(err)
	}
	close(release)
	t.Logf("room-%d killed in the middle of the join", i)
	if err := shared.Launch(t.Context(), "room", i); err != nil {
		t.Fatal(err)
	}
	if err := <-joined; err != nil {
		t.Logf("the request that was under way: %v", err)
		j.join()
	}
	j.speak()
	j.whole()
	j.heard()
}

// ownerOf returns the number of the room worker that owns a room's partition.
func ownerOf(t *testing.T, room string) int {
	t.Helper()
	list, err := shared.Owners(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	number, ok := strings.CutPrefix(list[partition.Of(room)], "room-")
	i, err := strconv.Atoi(number)
	if !ok || err != nil {
		t.Fatalf("owner %q", list[partition.Of(room)])
	}
	return i
}

// joining is a join under way.
type joining struct {
	t     *testing.T
	peer  *peer.Peer
	who   *mxclient.Client
	room  string
	begin time.Time
	said  id.Event
}

func (j *joining) join() {
	j.t.Helper()
	until(j.t, "join", func() error {
		_, err := j.who.Join(j.t.Context(), j.room, string(j.peer.Resident()))
		return err
	})
	j.t.Logf("joined after %s", since(j.begin))
}

// speak sends a message, and waits until the resident server has it.
func (j *joining) speak() {
	j.t.Helper()
	said, err := j.who.SendText(j.t.Context(), j.room, "first", "hello")
	if err != nil {
		j.t.Fatal(err)
	}
	j.said = id.Event(said)
	j.t.Logf("first message sent after %s", since(j.begin))
	until(j.t, "the message at the resident server", func() error {
		err := errors.New("has not come")
		j.peer.Booked(func(b *peer.Book) {
			if _, ok := b.Came[j.said]; ok {
				err = nil
			}
			if why, ok := b.Refused[j.said]; ok {
				err = errors.New(why)
			}
		})
		return err
	})
	j.t.Logf("first message seen after %s", since(j.begin))
}

// whole waits until the server has the whole state. Rooms that are joined without their members answer what is asked of
// the members once they are there.
func (j *joining) whole() {
	j.t.Helper()
	want := make(map[string]id.Event)
	in(j.t, j.peer, func(r *hugeroom.Room) error {
		m, err := r.Before(r.Ends()...)
		for k, e := range r.Set(m) {
			want[k.Type+"\x00"+k.StateKey] = e
		}
		return err
	})
	// A join that was tried again may be there in more than one event.
	own := "m.room.member\x00" + j.who.UserID
	delete(want, own)
	until(j.t, "the whole state", func() error {
		members, err := j.members()
		if err != nil {
			return err
		}
		have, err := stateOf(j.t, j.who, j.room)
		if err != nil {
			return err
		}
		_, in := members[j.who.UserID]
		if delete(have, own); !in || !maps.Equal(have, want) {
			return differ(have, want)
		}
		return nil
	})
	j.t.Logf("whole state of %d entries after %s", len(want), since(j.begin))
}

// members asks for a thing that needs all of them.
func (j *joining) members() (map[string]struct{}, error) {
	ctx, cancel := context.WithTimeout(j.t.Context(), patience())
	defer cancel()
	return j.who.JoinedMembers(ctx, j.room)
}

// heard waits until every server in the room has heard of the message.
func (j *joining) heard() {
	j.t.Helper()
	joined := make(map[id.Server]bool)
	in(j.t, j.peer, func(r *hugeroom.Room) error {
		for k, n := range r.After(r.History()).Type("m.room.member") {
			if r.PDU(int(n)).Membership() == "join" {
				joined[id.User(k.StateKey).Server()] = true
			}
		}
		return nil
	})
	until(j.t, "all servers", func() error {
		n := 0
		j.peer.Booked(func(b *peer.Book) {
			for s := range joined {
				if b.Told[s] {
					n++
				}
			}
		})
		if n < len(joined) {
			return fmt.Errorf("%d of %d servers have heard of it", n, len(joined))
		}
		return nil
	})
	j.t.Logf("%d servers have heard of it after %s", len(joined), since(j.begin))
}
