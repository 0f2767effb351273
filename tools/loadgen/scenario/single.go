package scenario

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"hanse/tools/loadgen/measure"
	"hanse/tools/loadgen/report"
	"hanse/tools/mxclient"
)

// repeat measures n operations of one kind.
func (e *Env) repeat(ctx context.Context, r *report.Report, workers, n int, fn func(ctx context.Context, i int) error) error {
	var lat measure.Recorder
	var errs Tally
	var next, done atomic.Int64
	limited := e.Client.RateLimited()
	span, err := e.Meter.Start(ctx)
	if err != nil {
		return err
	}
	e.progress("%s: %d", r.Scenario, n)
	took := pace{workers: workers, count: n}.drive(ctx, func(ctx context.Context, _ int, due time.Time) {
		if err := fn(ctx, int(next.Add(1)-1)); err != nil {
			errs.Add(r.Unit, err)
			return
		}
		lat.Add(time.Since(due))
		done.Add(1)
	})
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := e.finish(ctx, span, r, &errs, limited); err != nil {
		return err
	}
	r.Ops, r.Seconds = done.Load(), took.Seconds()
	r.Latencies = []measure.Latency{lat.Summary(r.Unit)}
	return nil
}

// Join measures local joins into one room.
type Join struct {
	Users       int `default:"1000" help:"Accounts that join."`
	Concurrency int `default:"8" help:"Joins at a time."`
}

// Run implements Scenario.
func (j *Join) Run(ctx context.Context, env *Env) (*report.Report, error) {
	users, err := env.Stage.Users(ctx, "u", j.Users+1)
	if err != nil {
		return nil, err
	}
	room, err := users[0].CreateRoom(ctx, mxclient.NewRoom{Preset: "public_chat"})
	if err != nil {
		return nil, err
	}
	r := env.report("join", "join", map[string]any{"users": j.Users, "concurrency": j.Concurrency})
	err = env.repeat(ctx, r, j.Concurrency, j.Users, func(ctx context.Context, i int) error {
		_, err := users[i+1].Join(ctx, room)
		return err
	})
	if err != nil {
		return nil, err
	}
	members, err := users[0].JoinedMembers(ctx, room)
	if err != nil {
		return nil, err
	}
	if want := int(r.Ops) + 1; len(members) != want {
		return nil, fmt.Errorf("the room has %d members after %d joins", len(members), r.Ops)
	}
	return r, nil
}

// Login measures logins with a password.
type Login struct {
	Users       int `default:"20" help:"Accounts that log in, in turn."`
	Count       int `default:"100" help:"Logins."`
	Concurrency int `default:"4" help:"Logins at a time."`
}

// Run implements Scenario.
func (l *Login) Run(ctx context.Context, env *Env) (*report.Report, error) {
	if _, err := env.Stage.Users(ctx, "u", l.Users); err != nil {
		return nil, err
	}
	r := env.report("login", "login", map[string]any{"users": l.Users, "concurrency": l.Concurrency})
	err := env.repeat(ctx, r, l.Concurrency, l.Count, func(ctx context.Context, i int) error {
		_, err := env.Client.Login(ctx, env.Stage.Name("u", i%l.Users), env.Stage.Password(), "")
		return err
	})
	return r, err
}

// Register measures registrations.
type Register struct {
	Count       int `default:"100" help:"Registrations."`
	Concurrency int `default:"4" help:"Registrations at a time."`
}

// Run implements Scenario.
func (g *Register) Run(ctx context.Context, env *Env) (*report.Report, error) {
	r := env.report("register", "registration", map[string]any{"concurrency": g.Concurrency})
	err := env.repeat(ctx, r, g.Concurrency, g.Count, func(ctx context.Context, i int) error {
		_, err := env.Stage.Register(ctx, env.Stage.Name("r"+env.Run, i))
		return err
	})
	return r, err
}

// CreateRoom measures the creation of rooms.
type CreateRoom struct {
	Count       int    `default:"100" help:"Rooms."`
	Concurrency int    `default:"4" help:"Creations at a time."`
	Preset      string `default:"private_chat" enum:"private_chat,public_chat,trusted_private_chat" help:"Preset."`
	Invite      int    `help:"Invitations in each."`
	Encrypted   bool   `help:"With m.room.encryption."`
}

// Run implements Scenario.
func (c *CreateRoom) Run(ctx context.Context, env *Env) (*report.Report, error) {
	users, err := env.Stage.Users(ctx, "u", c.Concurrency+c.Invite)
	if err != nil {
		return nil, err
	}
	room := mxclient.NewRoom{Preset: c.Preset, Name: "load"}
	for _, u := range users[c.Concurrency:] {
		room.Invite = append(room.Invite, u.UserID)
	}
	if c.Encrypted {
		room.InitialState = []mxclient.StateEvent{{Type: "m.room.encryption", Content: map[string]string{"algorithm": "m.megolm.v1.aes-sha2"}}}
	}
	r := env.report("create-room", "room", map[string]any{
		"preset": c.Preset, "invite": c.Invite, "concurrency": c.Concurrency, "encrypted": c.Encrypted,
	})
	err = env.repeat(ctx, r, c.Concurrency, c.Count, func(ctx context.Context, i int) error {
		_, err := users[i%c.Concurrency].CreateRoom(ctx, room)
		return err
	})
	return r, err
}

// InitialSync measures the first sync of a new device.
type InitialSync struct {
	Rooms       int    `default:"100" help:"Rooms that the account is in."`
	Members     int    `default:"10" help:"Members of each room."`
	Accounts    int    `default:"1" help:"Members of all the rooms who sync, in turn."`
	Times       int    `default:"20" help:"Syncs, each of a device of its own."`
	Concurrency int    `default:"1" help:"Syncs at a time."`
	Messages    int    `default:"10" help:"Messages in each room, sent when it is set up."`
	Filter      string `default:"${lazy}" help:"Filter, as JSON; none: everything."`
}

// Run implements Scenario.
func (s *InitialSync) Run(ctx context.Context, env *Env) (*report.Report, error) {
	pool := fmt.Sprintf("is%dx%d", s.Rooms, s.Members)
	users, err := env.Stage.Users(ctx, pool, s.Members)
	if err != nil {
		return nil, err
	}
	if err := s.furnish(ctx, env, pool, users); err != nil {
		return nil, err
	}
	accounts := min(max(s.Accounts, 1), s.Members)
	// A device of its own for each sync: some servers answer the same request of
	// the same device from a cache.
	devices := make([]*mxclient.Client, s.Times)
	err = each(ctx, 4, s.Times, func(i int) (err error) {
		devices[i], err = env.Client.Login(ctx, env.Stage.Name(pool, i%accounts), env.Stage.Password(), "")
		return err
	})
	if err != nil {
		return nil, err
	}
	filter := s.Filter
	if filter == "none" {
		filter = ""
	}
	r := env.report("initial-sync", "sync", map[string]any{
		"rooms": s.Rooms, "members": s.Members, "messages": s.Messages, "accounts": accounts, "concurrency": s.Concurrency, "filter": filter,
	})
	var bytes, rooms atomic.Int64
	err = env.repeat(ctx, r, s.Concurrency, s.Times, func(ctx context.Context, i int) error {
		raw, err := devices[i].SyncRaw(ctx, mxclient.SyncRequest{Filter: filter, SetPresence: "offline"})
		if err != nil {
			return err
		}
		bytes.Add(int64(len(raw)))
		_, err = mxclient.ScanSync(raw, func(*mxclient.ScannedRoom) error {
			rooms.Add(1)
			return nil
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	if r.Ops > 0 {
		r.Add("answer", float64(bytes.Load())/float64(r.Ops)/1024, "KiB")
		r.Add("rooms in an answer", float64(rooms.Load())/float64(r.Ops), "")
	}
	if rooms.Load() != r.Ops*int64(s.Rooms) {
		return r, fmt.Errorf("%d syncs of an account in %d rooms showed %d rooms", r.Ops, s.Rooms, rooms.Load())
	}
	return r, nil
}

// furnish fills the account's rooms with members and messages. Messages have
// constant transaction ids, so that a second run adds none.
func (s *InitialSync) furnish(ctx context.Context, env *Env, pool string, users []*mxclient.Client) error {
	var all []string
	for i := range s.Rooms {
		id, err := env.Stage.Room(ctx, pool+"-"+strconv.Itoa(i), users)
		if err != nil {
			return err
		}
		all = append(all, id)
	}
	if err := env.Stage.Save(); err != nil {
		return err
	}
	err := each(ctx, setupWorkers, len(all), func(i int) error {
		for n := range s.Messages {
			_, err := users[n%len(users)].SendText(ctx, all[i], "furnish-"+strconv.Itoa(n), "message "+strconv.Itoa(n))
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("furnish the rooms: %w", err)
	}
	return nil
}
