package presence

import (
	"errors"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"hanse/pkg/matrix/id"
	logv1 "hanse/proto/log/v1"
)

type heard []*logv1.Presence

func (h *heard) PublishPresence(p *logv1.Presence) error {
	*h = append(*h, p)
	return nil
}

// Client-server API, "Presence": everybody sees what was set last; without Redis those who listen hear of it still.
func TestStore(t *testing.T) {
	srv := miniredis.RunT(t)
	var h heard
	s := New(redis.NewClient(&redis.Options{Addr: srv.Addr()}), &h)
	ctx := t.Context()
	if _, err := s.Get(ctx, "@a:x.example"); !errors.Is(err, ErrUnknown) {
		t.Errorf("before anything was set: %v", err)
	}
	p := &logv1.Presence{UserId: "@a:x.example", Presence: Online, StatusMsg: "here", LastActiveMs: 5}
	if err := s.Set(ctx, p); err != nil {
		t.Fatal(err)
	}
	got, err := s.Get(ctx, "@a:x.example")
	if err != nil || got.Presence != Online || got.StatusMsg != "here" || got.LastActiveMs != 5 || len(h) != 1 {
		t.Errorf("got %v, %v", got, err)
	}
	many, err := s.GetMany(ctx, []id.User{"@a:x.example", "@b:x.example"})
	if err != nil || len(many) != 1 {
		t.Errorf("many: %v, %v", many, err)
	}
	if err := srv.Set(key("@b:x.example"), "\xff\xff"); err != nil {
		t.Fatal(err)
	}
	if many, err = s.GetMany(ctx, []id.User{"@a:x.example", "@b:x.example"}); err != nil || len(many) != 1 {
		t.Errorf("with garbage: %v, %v", many, err)
	}
	srv.SetError("down")
	if err := s.Set(ctx, p); err == nil || len(h) != 2 {
		t.Errorf("without Redis: %v, heard %d", err, len(h))
	}
	if Valid("asleep") || !Valid(Busy) {
		t.Error("states")
	}
}
