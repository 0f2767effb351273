package scenario

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"hanse/tools/loadgen/report"
	"hanse/tools/mxclient"
)

// Window measures simplified sliding sync of an account in many rooms: the first window of a connection, or requests without news.
type Window struct {
	Rooms int  `default:"100" help:"Rooms that the account is in."`
	Times int  `default:"100" help:"Requests."`
	Last  int  `default:"19" help:"Last place of the list."`
	Idle  bool `help:"Measure requests without news, which end at once, instead of the first window."`
}

// elementState is the state that Element X asks for.
var elementState = [][2]string{
	{"m.room.name", ""}, {"m.room.encryption", ""}, {"m.room.member", "$LAZY"}, {"m.room.member", "$ME"}, {"m.room.topic", ""},
	{"m.room.avatar", ""}, {"m.room.canonical_alias", ""}, {"m.room.power_levels", ""}, {"org.matrix.msc3401.call.member", "*"},
	{"m.room.join_rules", ""}, {"m.room.create", ""}, {"m.room.history_visibility", ""}, {"m.space.child", "*"}, {"m.space.parent", "*"},
	{"m.room.pinned_events", ""}, {"m.room.tombstone", ""}, {"m.room.server_acl", ""}, {"m.beacon_info", "*"},
}

// elementExtensions are the extensions that Element X asks for together with the list of rooms.
var elementExtensions = map[string]any{
	"account_data": map[string]any{"enabled": true}, "receipts": map[string]any{"enabled": true, "rooms": []string{"*"}},
	"typing": map[string]any{"enabled": true},
}

// Run implements Scenario.
func (w *Window) Run(ctx context.Context, env *Env) (*report.Report, error) {
	pool := "w" + strconv.Itoa(w.Rooms)
	users, err := env.Stage.Users(ctx, pool, 1)
	if err != nil {
		return nil, err
	}
	for i := range w.Rooms {
		if _, err := env.Stage.Room(ctx, pool+"-"+strconv.Itoa(i), users); err != nil {
			return nil, err
		}
	}
	if err := env.Stage.Save(); err != nil {
		return nil, err
	}
	q := mxclient.SlideRequest{
		Conn: "room-list", Last: w.Last, Limit: 1, State: elementState, Extensions: elementExtensions, SetPresence: "offline",
	}
	want := min(w.Rooms, w.Last+1)
	first := func(ctx context.Context) (raw []byte, pos string, err error) {
		if raw, err = users[0].SlideRaw(ctx, q); err != nil {
			return nil, "", err
		}
		rooms := 0
		pos, err = mxclient.ScanSlide(raw, func(*mxclient.ScannedRoom) error { rooms++; return nil })
		if err == nil && rooms != want {
			err = fmt.Errorf("a window of %d rooms has %d", want, rooms)
		}
		return raw, pos, err
	}
	_, pos, err := first(ctx) // the server comes to know the account
	if err != nil {
		return nil, err
	}
	var bytes atomic.Int64
	name, unit := "first-window", "window"
	do := func(ctx context.Context, _ int) error {
		raw, _, err := first(ctx)
		bytes.Add(int64(len(raw)))
		return err
	}
	if w.Idle {
		name, unit = "idle-request", "request"
		do = func(ctx context.Context, _ int) error {
			idle := q
			idle.Pos, idle.Timeout = pos, time.Millisecond
			raw, err := users[0].SlideRaw(ctx, idle)
			if err != nil {
				return err
			}
			bytes.Add(int64(len(raw)))
			pos, err = mxclient.ScanSlide(raw, func(r *mxclient.ScannedRoom) error { return fmt.Errorf("there is news of %s", r.Room) })
			return err
		}
	}
	r := env.report(name, unit, map[string]any{"rooms": w.Rooms, "last": w.Last})
	if err := env.repeat(ctx, r, 1, w.Times, do); err != nil {
		return nil, err
	}
	if r.Ops > 0 {
		r.Add("answer", float64(bytes.Load())/float64(r.Ops)/1024, "KiB")
	}
	return r, nil
}
