package room

import (
	"context"
	"fmt"
	"time"

	"github.com/tidwall/gjson"
)

// typeGuestAccess says whether guests may join (client-server API, "Guest Access").
const typeGuestAccess = "m.room.guest_access"

// guestGrace is how long the task to remove guests waits for the commit of the change that it belongs to.
const guestGrace = 20 * time.Second

// sqlGuestTask leaves the removal of a room's guests to the role client, as a task (userdb.TaskGuests) of the room.
const sqlGuestTask = `
INSERT INTO user_task (part, user_id, kind, key, version, payload, due_ts)
VALUES ($1, $2, 'guests', '', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, '', $3)
ON CONFLICT (part, user_id, kind, key) DO UPDATE
SET version = greatest(user_task.version + 1, excluded.version), due_ts = excluded.due_ts, attempts = 0`

// guestsBarred says whether guests might join before an event became current, and may not any more.
func (w *writer) guestsBarred(ctx context.Context, old, now int64) (bool, error) {
	admits := func(nid int64) (bool, error) {
		if nid == 0 {
			return false, nil
		}
		e, err := w.s.event(ctx, w.r.p, nid)
		if err != nil {
			return false, err
		}
		return gjson.GetBytes(e.Content, "guest_access").Str == "can_join", nil
	}
	might, err := admits(old)
	if err != nil || !might {
		return false, err
	}
	may, err := admits(now)
	return !may, err
}

// removeGuests sees to it that local guests leave the room after the draft is committed. The task is stored before that,
// so that it is there whatever becomes of this worker; it looks at the room as it then is.
func (w *writer) removeGuests(ctx context.Context) error {
	if err := w.s.guestTask(ctx, w.r, guestGrace); err != nil {
		return err
	}
	w.c.barsGuests = true
	return nil
}

func (s *Service) guestTask(ctx context.Context, r *room, in time.Duration) error {
	_, err := s.shards.For(r.p.part).Exec(ctx, sqlGuestTask, int32(r.p.part), string(r.id), time.Now().Add(in).UnixMilli())
	if err != nil {
		return fmt.Errorf("task to remove guests: %w", err)
	}
	return nil
}

// guestsSoon makes the task due once a change is committed.
func (s *Service) guestsSoon(c *change) {
	ctx := c.room.p.ctx
	s.work.Go(func() {
		err := c.wait(ctx)
		if err == nil {
			err = s.guestTask(ctx, c.room, 0)
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("guests could not be removed yet; the task is repeated later", "room", c.room.id, "err", err)
		}
	})
}
