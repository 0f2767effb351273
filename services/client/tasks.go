package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/retries"
	"hanse/pkg/roomowner"
	"hanse/pkg/userdb"
	mediav1 "hanse/proto/media/v1"
	roomv1 "hanse/proto/room/v1"
)

const (
	// taskParallel bounds the tasks that a worker runs at once.
	taskParallel = 64
	// taskTime bounds one try of a task.
	taskTime = 2 * time.Minute
	// taskWait is how long an answer waits for the tasks that its request began: most are done by then, so that what
	// the client does next sees their effect.
	taskWait = 2 * time.Second
	// roomsAtOnce bounds the calls that one task makes at the same time.
	roomsAtOnce = 8
	// pruneEvery is how often rows that nobody needs are deleted; each worker does it for all.
	pruneEvery = time.Hour
	// txnAge is how long a request with a transaction id is known.
	txnAge = 7 * 24 * time.Hour
)

// runTasks takes tasks of workers that died, until the context ends.
func (c *Client) runTasks(ctx context.Context) error {
	tick := time.NewTicker(c.cfg.TaskInterval)
	defer tick.Stop()
	pruned := time.Now()
	reads := retries.Log{To: c.log, What: "reading unfinished tasks"}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		tasks, err := c.users.TakeTasks(ctx, time.Now(), taskParallel)
		if ctx.Err() == nil {
			reads.Note(err)
		}
		c.start(tasks...)
		if time.Since(pruned) > pruneEvery {
			pruned = time.Now()
			if err := c.users.Prune(ctx, pruned, txnAge); err != nil && ctx.Err() == nil {
				c.log.WarnContext(ctx, "old rows could not be deleted", "err", err)
			}
		}
	}
}

// start runs tasks in the background. done is closed when all were tried. One that fails is found again by runTasks,
// here or elsewhere.
func (c *Client) start(tasks ...userdb.Task) (done <-chan struct{}) {
	all := make(chan struct{})
	c.tasks.Add(1)
	go func() {
		defer c.tasks.Done()
		defer close(all)
		var g errgroup.Group
		for _, t := range tasks {
			g.Go(func() error {
				c.try(t)
				return nil
			})
		}
		_ = g.Wait() // no function returns an error
	}()
	return all
}

// startAndWait starts tasks and waits for them, but not for long: they are safe anyway.
func (c *Client) startAndWait(ctx context.Context, tasks ...userdb.Task) {
	if len(tasks) == 0 {
		return
	}
	t := time.NewTimer(taskWait)
	defer t.Stop()
	select {
	case <-c.start(tasks...):
	case <-t.C:
	case <-ctx.Done():
	}
}

func (c *Client) try(t userdb.Task) {
	select {
	case c.taskSem <- struct{}{}:
		defer func() { <-c.taskSem }()
	case <-c.draining.Done():
		return
	}
	ctx, cancel := context.WithTimeout(c.draining, taskTime)
	defer cancel()
	err := c.runTask(ctx, t)
	if err == nil {
		err = c.users.FinishTask(ctx, t)
	}
	if err != nil && c.draining.Err() == nil {
		c.log.Warn("task not finished", "user", t.User, "kind", t.Kind, "key", t.Key, "attempts", t.Attempts, "err", err)
	}
}

func (c *Client) runTask(ctx context.Context, t userdb.Task) error {
	switch t.Kind {
	case userdb.TaskDevices:
		return c.tellDevices(ctx, t)
	case userdb.TaskProfile:
		return c.tellProfile(ctx, t)
	case userdb.TaskDeactivate:
		return c.leaveAll(ctx, t)
	case userdb.TaskErase:
		_, err := c.media.Erase(ctx, &mediav1.EraseRequest{UserId: string(t.User)})
		return err
	case userdb.TaskSuccession:
		return c.carryAlong(ctx, t)
	case userdb.TaskGuests:
		return c.removeGuests(ctx, id.Room(t.User), t)
	}
	return fmt.Errorf("unknown kind of task %q", t.Kind)
}

// tellProfile puts the present profile into the member events of the user's rooms. A room that refuses it (somebody
// was banned meanwhile) is passed over, as Synapse does.
func (c *Client) tellProfile(ctx context.Context, t userdb.Task) error {
	p, err := c.users.Profile(ctx, t.User)
	if errors.Is(err, userdb.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	rooms, err := c.users.JoinedRooms(ctx, t.User)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(roomsAtOnce)
	for _, r := range rooms {
		g.Go(func() error { return passOver(c.tellProfileTo(ctx, t, p, r)) })
	}
	return g.Wait()
}

// passOver drops errors that will not go away by trying again.
func passOver(err error) error {
	if e, ok := merr.As(err); ok && e.Status < 500 && e.Code != merr.CodeLimitExceeded {
		return nil
	}
	return err
}

func (c *Client) tellProfileTo(ctx context.Context, t userdb.Task, p userdb.Profile, r userdb.JoinedRoom) error {
	content, err := c.memberContent(ctx, r.Room, t.User)
	if err != nil {
		return err
	}
	setOrDelete(content, "displayname", p.Displayname)
	setOrDelete(content, "avatar_url", p.AvatarURL)
	// The authoriser of a restricted join is not asked again: we are in the room already (room versions 8 and later).
	delete(content, "join_authorised_via_users_server")
	raw, err := json.Marshal(content)
	if err != nil {
		return err
	}
	key := string(t.User)
	return roomowner.CallPart(ctx, c.router, r.Part, func(ctx context.Context, rc roomv1.RoomClient) error {
		_, err := rc.Send(ctx, &roomv1.SendRequest{
			RoomId: string(r.Room),
			Events: []*roomv1.EventIntent{{Type: "m.room.member", StateKey: &key, Content: raw, Sender: string(t.User)}},
			Cause:  &roomv1.Cause{UserId: string(t.User), Key: fmt.Sprintf("profile/%d", t.Version)},
		})
		return err
	})
}

func setOrDelete(m map[string]json.RawMessage, key string, v *string) {
	if v == nil {
		delete(m, key)
		return
	}
	raw, err := json.Marshal(*v)
	if err == nil { // strings always marshal
		m[key] = raw
	}
}

// memberContent returns the content of a user's own member event in a room that they are in.
func (c *Client) memberContent(ctx context.Context, roomID id.Room, user id.User) (map[string]json.RawMessage, error) {
	room, err := c.rooms.Room(ctx, roomID)
	if err != nil {
		return nil, err
	}
	m, err := c.rooms.State(ctx, room.Part, room.SID)
	if err != nil {
		return nil, err
	}
	ev, err := c.rooms.StateEvent(ctx, room.Part, m, "m.room.member", string(user))
	if err != nil {
		return nil, err
	}
	content := make(map[string]json.RawMessage)
	if err := json.Unmarshal(ev.Content, &content); err != nil {
		return nil, fmt.Errorf("member event: %w", err)
	}
	if ev.Membership() != "join" {
		return nil, merr.Forbidden("not in the room any more")
	}
	return content, nil
}

// leaveAll makes the user of a closed account leave all rooms, and reject all invites.
func (c *Client) leaveAll(ctx context.Context, t userdb.Task) error {
	rows, err := c.users.Memberships(ctx, t.User)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(roomsAtOnce)
	for _, m := range rows {
		if m.Membership != "join" && m.Membership != "invite" && m.Membership != "knock" {
			continue
		}
		g.Go(func() error {
			return passOver(roomowner.Call(ctx, c.router, m.Room, func(ctx context.Context, rc roomv1.RoomClient) error {
				_, err := rc.Leave(ctx, &roomv1.LeaveRequest{
					RoomId: string(m.Room), UserId: string(t.User), Content: []byte(`{}`),
					Cause: &roomv1.Cause{UserId: string(t.User), Key: fmt.Sprintf("deactivate/%d", m.Pos)},
				})
				return err
			}))
		})
	}
	return g.Wait()
}
