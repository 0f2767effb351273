package mxclient

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// SyncRequest are the parameters of a sync.
type SyncRequest struct {
	Since         string
	Filter        string // id or JSON
	Timeout       time.Duration
	FullState     bool
	SetPresence   string
	UseStateAfter bool
}

// Timeline is a room's new events.
type Timeline struct {
	Events    []Event `json:"events"`
	Limited   bool    `json:"limited"`
	PrevBatch string  `json:"prev_batch"`
}

// Events wraps a list of events.
type Events struct {
	Events []Event `json:"events"`
}

// JoinedRoom is what is new in a room.
type JoinedRoom struct {
	Timeline    Timeline        `json:"timeline"`
	State       Events          `json:"state"`
	StateAfter  *Events         `json:"state_after"`
	Ephemeral   Events          `json:"ephemeral"`
	AccountData Events          `json:"account_data"`
	Summary     json.RawMessage `json:"summary"`
	Unread      struct {
		Notifications int `json:"notification_count"`
		Highlights    int `json:"highlight_count"`
	} `json:"unread_notifications"`
}

// SyncResponse is the answer of a sync.
type SyncResponse struct {
	NextBatch string `json:"next_batch"`
	Rooms     struct {
		Join   map[string]*JoinedRoom `json:"join"`
		Leave  map[string]*JoinedRoom `json:"leave"`
		Invite map[string]struct {
			InviteState Events `json:"invite_state"`
		} `json:"invite"`
		Knock map[string]struct {
			KnockState Events `json:"knock_state"`
		} `json:"knock"`
	} `json:"rooms"`
	Presence    Events `json:"presence"`
	AccountData Events `json:"account_data"`
	ToDevice    Events `json:"to_device"`
	DeviceLists struct {
		Changed []string `json:"changed"`
		Left    []string `json:"left"`
	} `json:"device_lists"`
	OneTimeKeys map[string]int `json:"device_one_time_keys_count"`
}

// Sync asks once.
func (c *Client) Sync(ctx context.Context, r SyncRequest) (*SyncResponse, error) {
	var out SyncResponse
	err := c.sync(ctx, r, &out)
	return &out, err
}

// SyncRaw is Sync without decoding.
func (c *Client) SyncRaw(ctx context.Context, r SyncRequest) ([]byte, error) {
	var out []byte
	err := c.sync(ctx, r, &out)
	return out, err
}

func (c *Client) sync(ctx context.Context, r SyncRequest, out any) error {
	q := url.Values{"timeout": {strconv.FormatInt(r.Timeout.Milliseconds(), 10)}}
	for k, v := range map[string]string{"since": r.Since, "filter": r.Filter, "set_presence": r.SetPresence} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if r.FullState {
		q.Set("full_state", "true")
	}
	if r.UseStateAfter {
		q.Set("use_state_after", "true")
	}
	return c.Do(ctx, Call{Method: http.MethodGet, Path: v3 + "/sync", Query: q, Out: out, LongPoll: r.Timeout})
}

// Syncer repeats Sync with the token of the last answer.
type Syncer struct {
	Client  *Client
	Request SyncRequest // Since is kept up to date
	// OnSync handles an answer. The token moves on only if it returns nil; its
	// error ends Run.
	OnSync func(context.Context, *SyncResponse) error
	// OnError is told of a failed request, which is repeated with the same token
	// after a pause. nil, or an error returned: Run ends.
	OnError func(error) error
}

// Run syncs until ctx ends, which is not an error.
func (s *Syncer) Run(ctx context.Context) error {
	const first = 20 * time.Millisecond
	pause := first
	for ctx.Err() == nil {
		resp, err := s.Client.Sync(ctx, s.Request)
		if err == nil {
			pause = first
			if err = s.OnSync(ctx, resp); err != nil {
				return err
			}
			s.Request.Since = resp.NextBatch
			continue
		}
		if ctx.Err() == nil {
			if err = s.failed(ctx, err, pause); err != nil {
				return err
			}
			pause = min(2*pause, time.Second)
		}
	}
	return nil
}

// failed asks whether to go on after an error, and pauses.
func (s *Syncer) failed(ctx context.Context, err error, pause time.Duration) error {
	if s.OnError == nil {
		return err
	}
	if err := s.OnError(err); err != nil {
		return err
	}
	var e *Error
	if errors.As(err, &e) && e.RetryAfter > 0 {
		pause = e.RetryAfter
	}
	_ = sleep(ctx, pause) // the end of ctx is the caller's to see
	return nil
}
