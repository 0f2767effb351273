package mxclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// SlideRequest are the parameters of a request of simplified sliding sync (MSC4186, in the encoding that clients speak), with one list.
type SlideRequest struct {
	Pos         string
	Conn        string
	Last        int // of the list's places, from 0 on
	Limit       int // events of each timeline
	State       [][2]string
	Extensions  map[string]any
	Timeout     time.Duration
	SetPresence string
}

// SlideRaw asks once.
func (c *Client) SlideRaw(ctx context.Context, r SlideRequest) ([]byte, error) {
	q := url.Values{"timeout": {strconv.FormatInt(r.Timeout.Milliseconds(), 10)}}
	for k, v := range map[string]string{"pos": r.Pos, "set_presence": r.SetPresence} {
		if v != "" {
			q.Set(k, v)
		}
	}
	state := r.State
	if state == nil {
		state = [][2]string{}
	}
	body := map[string]any{
		"conn_id": r.Conn, "extensions": r.Extensions,
		"lists": map[string]any{"all_rooms": map[string]any{"ranges": [][2]int{{0, r.Last}}, "timeline_limit": r.Limit, "required_state": state}},
	}
	var out []byte
	err := c.Do(ctx, Call{
		Method: http.MethodPost, Path: "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync",
		Query: q, Body: body, Out: &out, LongPoll: r.Timeout,
	})
	return out, err
}

// ScanSlide is ScanSync for an answer of sliding sync.
func ScanSlide(raw []byte, onRoom func(*ScannedRoom) error) (pos string, err error) {
	s := scanner{b: raw}
	var room ScannedRoom
	err = s.object(func(key string) error {
		switch key {
		case "pos":
			return s.string(&pos)
		case "rooms":
			return s.object(func(id string) error {
				room = ScannedRoom{Room: id, Events: room.Events[:0]}
				if err := s.slideRoom(&room); err != nil {
					return err
				}
				return onRoom(&room)
			})
		default:
			return s.skip(0)
		}
	})
	if err != nil {
		return "", fmt.Errorf("scan sliding sync: %w", err)
	}
	if s.ws(); s.i != len(s.b) {
		return "", fmt.Errorf("scan sliding sync: more after the end, at byte %d", s.i)
	}
	if pos == "" {
		return "", errors.New("scan sliding sync: no pos")
	}
	return pos, nil
}

func (s *scanner) slideRoom(r *ScannedRoom) error {
	return s.object(func(key string) error {
		switch key {
		case "limited":
			return s.bool(&r.Limited)
		case "prev_batch":
			return s.string(&r.PrevBatch)
		case "timeline":
			return s.array(func() error {
				var e ScannedEvent
				if err := s.event(&e); err != nil {
					return err
				}
				r.Events = append(r.Events, e)
				return nil
			})
		default:
			return s.skip(0)
		}
	})
}
