package timeline

import (
	"context"
	"net/http"
	"time"

	"hanse/pkg/roomdb"
	"hanse/pkg/view"
	"hanse/services/client/access"
	"hanse/services/client/core"
)

// format is how the client that asks sees events.
func format(r *http.Request) view.Format {
	i := core.Me(r)
	return view.Format{User: i.User, Device: i.Device, WithRoomID: true, Now: time.Now()}
}

// render returns events as the client that asks sees them.
func (c *Timeline) render(ctx context.Context, r *http.Request, events []*roomdb.Event) ([][]byte, error) {
	return view.Render(ctx, c.Rooms, format(r), events)
}

// renderTimeline is render for events that are told as such, with what relates to them and what the user was to the room then.
func (c *Timeline) renderTimeline(ctx context.Context, r *http.Request, a *access.View, events []*roomdb.Event) (_ [][]byte, err error) {
	f := format(r)
	if f.Bundles, err = view.Bundled(ctx, c.Rooms, a.Reader, a.Ignored, events); err != nil {
		return nil, err
	}
	if f.Memberships, err = view.Memberships(ctx, c.Rooms, f.User, events); err != nil {
		return nil, err
	}
	return view.Render(ctx, c.Rooms, f, events)
}
