package mxclient_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"hanse/tools/mxclient"
	"hanse/tools/mxclient/mxtest"
	"hanse/tools/specapi"
)

// newClient is a client whose every exchange is held against the specification.
func newClient(t *testing.T, s *mxtest.Server, retry mxclient.Retry) *mxclient.Client {
	t.Helper()
	tr := mxclient.NewTransport(0, nil)
	t.Cleanup(tr.CloseIdleConnections)
	spec, err := loadOnce()
	if err != nil {
		t.Fatal(err)
	}
	return mxclient.New(s.URL, mxclient.Options{
		Retry:     retry,
		Transport: spec.RoundTripper(tr, func(err error) { t.Error(err) }, specapi.WithRequests()),
	})
}

var loadOnce = sync.OnceValues(func() (*specapi.Spec, error) { return specapi.Load("") })

func ctx(t *testing.T) context.Context {
	c, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return c
}

func TestRegisterLoginWhoami(t *testing.T) {
	c, x := newClient(t, mxtest.New(t), mxclient.Retry{}), ctx(t)
	a, err := c.RegisterShared(x, mxtest.Secret, "a", "pw", false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.RegisterShared(x, "wrong", "b", "pw", false); !mxclient.IsCode(err, "M_FORBIDDEN") {
		t.Fatal(err)
	}
	if _, err := c.Register(x, "b", "pw"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Register(x, "b", "pw"); !mxclient.IsCode(err, "M_USER_IN_USE") {
		t.Fatal(err)
	}
	b, err := c.Login(x, "b", "pw", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range []*mxclient.Client{a, b} {
		id, _, err := u.Whoami(x)
		if err != nil || id != u.UserID {
			t.Errorf("%s: %s %v", u.UserID, id, err)
		}
	}
	if _, _, err := c.As(mxclient.Session{AccessToken: "none"}).Whoami(x); !mxclient.IsCode(err, "M_UNKNOWN_TOKEN") {
		t.Error(err)
	}
}

func pair(t *testing.T, c *mxclient.Client) (a, b *mxclient.Client, room string) {
	t.Helper()
	x := ctx(t)
	a, err := c.Register(x, "a", "pw")
	if err != nil {
		t.Fatal(err)
	}
	if b, err = c.Register(x, "b", "pw"); err != nil {
		t.Fatal(err)
	}
	if room, err = a.CreateRoom(x, mxclient.NewRoom{Preset: "public_chat"}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Join(x, room, "test"); err != nil {
		t.Fatal(err)
	}
	return a, b, room
}

func TestSyncLoopAndHistory(t *testing.T) {
	a, b, room := pair(t, newClient(t, mxtest.New(t), mxclient.Retry{}))
	x, stop := context.WithCancel(ctx(t))
	first, err := b.Sync(x, mxclient.SyncRequest{})
	if err != nil {
		t.Fatal(err)
	}
	const n = 50 // more than a timeline holds
	var got []string
	s := &mxclient.Syncer{
		Client:  b,
		Request: mxclient.SyncRequest{Since: first.NextBatch, Timeout: 5 * time.Second},
		OnSync: func(_ context.Context, r *mxclient.SyncResponse) error {
			tl := r.Rooms.Join[room].Timeline
			if tl.Limited {
				gap, err := b.History(x, room, tl.PrevBatch, func(e *mxclient.Event) bool {
					return e.Type != "m.room.message" || slices.Contains(got, e.EventID)
				})
				if err != nil {
					return err
				}
				for _, e := range gap {
					got = append(got, e.EventID)
				}
			}
			for _, e := range tl.Events {
				got = append(got, e.EventID)
			}
			if len(got) >= n {
				stop()
			}
			return nil
		},
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(x) }()
	var sent []string
	for i := range n {
		id, err := a.SendText(ctx(t), room, fmt.Sprint(i), "hello")
		if err != nil {
			t.Fatal(err)
		}
		sent = append(sent, id)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, sent) {
		t.Errorf("got %v, sent %v", got, sent)
	}
	all, err := b.History(ctx(t), room, "", nil)
	if err != nil || len(all) != n+2 || all[2].EventID != sent[0] {
		t.Errorf("history: %d events, %v", len(all), err)
	}
}

func TestRetry(t *testing.T) {
	s := mxtest.New(t)
	var mu sync.Mutex
	retries := 0
	c := newClient(t, s, mxclient.Retry{Attempts: 5, Wait: time.Millisecond, OnRetry: func(error) {
		mu.Lock()
		retries++
		mu.Unlock()
	}})
	a, _, room := pair(t, c)
	s.Refuse(2)
	id, err := a.SendText(ctx(t), room, "t", "x")
	if err != nil || c.RateLimited() != 2 {
		t.Fatal(err, c.RateLimited())
	}
	s.LoseAnswers(2)
	again, err := a.SendText(ctx(t), room, "t", "x")
	if err != nil || again != id {
		t.Errorf("%s, then %s, %v", id, again, err)
	}
	if retries < 4 {
		t.Error(retries)
	}
	var e *mxclient.Error
	if _, err := a.Join(ctx(t), "!none:test"); !errors.As(err, &e) || e.Status != http.StatusNotFound {
		t.Error(err)
	}
}

func TestNoRetryUnlessAsked(t *testing.T) {
	s := mxtest.New(t)
	a, _, room := pair(t, newClient(t, s, mxclient.Retry{}))
	s.LoseAnswers(1)
	if _, err := a.SendText(ctx(t), room, "t", "x"); err == nil {
		t.Error("a lost answer is no error")
	}
}
