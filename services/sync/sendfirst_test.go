package sync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"hanse/pkg/growth"
	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/session"
	"hanse/pkg/token"
)

func firstPoll(user id.User) *poll {
	return &poll{asker: asker{who: &session.Identity{User: user}}, filter: noFilter}
}

// First syncs take turns within a budget: so many of one user, and of all.
func TestFirstAnswersAreBounded(t *testing.T) {
	s := &Service{firsts: newFirsts(8*firstCost, nil)}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	var polls []*poll
	begin := func(user id.User) error {
		p := firstPoll(user)
		err := s.beginFirst(gone, p)
		polls = append(polls, p)
		return err
	}
	for range firstEach {
		if err := begin("@a:x"); err != nil {
			t.Fatal(err)
		}
	}
	if err := begin("@a:x"); !errors.Is(err, context.Canceled) {
		t.Errorf("one more of the user: %v", err)
	}
	if err := begin("@b:x"); err != nil {
		t.Errorf("another user: %v", err)
	}
	polls[0].charge(3 * firstCost) // more than was thought
	if err := begin("@c:x"); !errors.Is(err, context.Canceled) {
		t.Errorf("beyond the budget of all: %v", err)
	}
	polls[0].charge(-3 * firstCost)
	if err := begin("@c:x"); err != nil {
		t.Errorf("within it again: %v", err)
	}
	after := firstPoll("@a:x")
	after.since = &token.Sync{}
	if err := s.beginFirst(gone, after); err != nil || after.held != nil {
		t.Errorf("a poll with a token: %v", err)
	}
	for _, p := range polls {
		p.held.Release()
	}
	if n := s.firsts.Held("answers"); n != 0 {
		t.Errorf("%d bytes are still held", n)
	}
}

// manyInvites is a first answer with so many rooms of 10 kB.
func manyInvites(n int) *answer {
	a := &answer{user: "@a:x", moment: &moment{}}
	invite := []byte(`{"invite_state":{"events":["` + strings.Repeat("x", 10_000) + `"]}}`)
	for i := range n {
		a.invite = append(a.invite, roomAnswer{id: id.Room(fmt.Sprintf("!%d:x", i)), json: invite})
	}
	a.leave = []roomAnswer{{id: "!left:x", json: []byte(`{}`)}}
	return a
}

// Client-server API, "Syncing": a first answer that is sent step by step is what one made at once would be.
func TestFirstAnswerIsSentInSteps(t *testing.T) {
	s := &Service{large: httpx.NewLarge("sync", nil)}
	for _, n := range []int{0, 1, 1000} {
		w := httptest.NewRecorder()
		if err := s.send(t.Context(), w, firstPoll("@a:x"), manyInvites(n).encode()); err != nil {
			t.Fatal(err)
		}
		var got struct {
			Next  string `json:"next_batch"`
			Rooms struct{ Join, Invite, Leave map[string]json.RawMessage }
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatalf("%d rooms: %v", n, err)
		}
		if got.Next == "" || got.Rooms.Join == nil || len(got.Rooms.Invite) != n || len(got.Rooms.Leave) != 1 {
			t.Errorf("%d rooms: %d and %d", n, len(got.Rooms.Invite), len(got.Rooms.Leave))
		}
	}
}

// What is held of an answer while it is sent does not grow with it.
func TestFirstAnswerKeepsNothing(t *testing.T) {
	s := &Service{large: httpx.NewLarge("sync", nil)}
	growth.Flat(t, "sending a first answer", 500, 4000, 3, func(n int) growth.Cost {
		a := manyInvites(n)
		bytes, _ := growth.Bytes(func() {
			if err := s.send(t.Context(), nowhere{http.Header{}}, firstPoll("@a:x"), a.encode()); err != nil {
				t.Fatal(err)
			}
		})
		return growth.Cost{"bytes": bytes}
	})
}

// never refuses everything.
type never struct{ asked []string }

func (n *never) Allow(_ context.Context, kind, key string) error {
	n.asked = append(n.asked, kind+" "+key)
	return merr.LimitExceeded(1000)
}

// Client-server API, "Rate limiting": a poll is a request like any other.
func TestPollsAreLimited(t *testing.T) {
	limits := new(never)
	s := &Service{limits: limits}
	h := s.limited(func(http.ResponseWriter, *http.Request) error { t.Error("it was let in"); return nil })
	r := session.With(httptest.NewRequest(http.MethodGet, "/", nil), &session.Identity{User: "@a:x"})
	if err := h(httptest.NewRecorder(), r); !merr.HasCode(err, merr.CodeLimitExceeded) || len(limits.asked) != 1 || limits.asked[0] != "request @a:x" {
		t.Errorf("%v, asked %v", err, limits.asked)
	}
}
