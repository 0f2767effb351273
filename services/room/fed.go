package room

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	federationv1 "hanse/proto/federation/v1"
)

// fedError is an answer of another server that is not a success.
type fedError struct {
	server id.Server
	status int
	body   []byte
}

func (e *fedError) Error() string {
	return fmt.Sprintf("%s answered %d %.200s", e.server, e.status, e.body)
}

// code is the errcode of the answer.
func (e *fedError) code() string { return gjson.GetBytes(e.body, "errcode").Str }

// matrix passes an answer that is about the request, not about the server, on to our own caller.
func (e *fedError) matrix() *merr.Error {
	m := merr.New(e.status, e.code(), gjson.GetBytes(e.body, "error").Str).WithCause(e)
	if m.Code == "" {
		m.Code = merr.CodeUnknown
	}
	if v := gjson.GetBytes(e.body, "room_version"); v.Exists() {
		m = m.With("room_version", v.Str)
	}
	return m
}

// errUnanswered is what comes of a server that does not answer, or not in time.
var errUnanswered = errors.New("no answer")

// Limits of what we take from other servers, in bytes, and how long we wait.
const (
	smallAnswer  = 1 << 20
	largeAnswer  = 512 << 20 // the state of the largest room with its auth chain, twice
	shortTimeout = 15 * time.Second
	longTimeout  = 2 * time.Minute
)

// request is one request to another server.
type request struct {
	origin, dest id.Server
	method, uri  string
	body         any // marshalled; []byte as it is; nil for none
	timeout      time.Duration
	max          int64
}

// ask makes a request and decodes a successful answer into out, unless that is nil. One that may become large needs a context
// with a slot.
func (s *Service) ask(ctx context.Context, q request, out any) error {
	if s.fedout == nil {
		return errors.New("there is no way to other servers")
	}
	var body []byte
	switch b := q.body.(type) {
	case nil:
	case []byte:
		body = b
	default:
		var err error
		if body, err = json.Marshal(b); err != nil {
			return err
		}
	}
	if q.timeout == 0 {
		q.timeout = shortTimeout
	}
	if q.max == 0 {
		q.max = smallAnswer
	}
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	how := attemptOf(ctx)
	stream, err := s.fedout.Do(ctx, &federationv1.DoRequest{Origin: string(q.origin), Destination: string(q.dest), Method: q.method,
		Uri: q.uri, Body: body, TimeoutMs: q.timeout.Milliseconds(), MaxBytes: q.max, IgnoreBackoff: how.always})
	if err != nil {
		how.failed(err)
		return fmt.Errorf("ask %s: %w: %w", q.dest, errUnanswered, err)
	}
	status, answer := 0, []byte(nil)
	in := &streamed{stream: stream, stop: cancel, patience: firstIn}
	for {
		m, err := in.recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			how.failed(err)
			return fmt.Errorf("ask %s: %w: %w", q.dest, errUnanswered, err)
		}
		if m.Status != 0 {
			status, in.patience = int(m.Status), progressIn
		}
		if answer = append(answer, m.Chunk...); int64(len(answer)) > q.max {
			return fmt.Errorf("ask %s: the answer is larger than %d bytes", q.dest, q.max)
		}
		if sl := slotOf(ctx); sl != nil && len(answer) > freeAnswer {
			if err := sl.take(ctx); err != nil {
				return fmt.Errorf("ask %s: %w", q.dest, err)
			}
		}
	}
	if status < 200 || status > 299 {
		return &fedError{q.dest, status, answer}
	}
	if out == nil {
		return nil
	}
	if err := canonjson.Decode(answer, out); err != nil {
		return fmt.Errorf("ask %s: %w", q.dest, err)
	}
	return nil
}

// fedPath builds the path of a federation request; the parts are escaped.
func fedPath(version, endpoint string, parts ...string) string {
	p := "/_matrix/federation/" + version + "/" + endpoint
	for _, part := range parts {
		p += "/" + url.PathEscape(part)
	}
	return p
}

// rawPDUs is a list of events in an answer.
type rawPDUs []json.RawMessage

// fetchEvent asks for one event.
func (s *Service) fetchEvent(ctx context.Context, origin, dest id.Server, eventID id.Event) (rawPDUs, error) {
	var out struct {
		PDUs rawPDUs `json:"pdus"`
	}
	err := s.ask(ctx, request{origin: origin, dest: dest, method: http.MethodGet, uri: fedPath("v1", "event", string(eventID))}, &out)
	return out.PDUs, err
}

// fetchAuth asks for the auth chain of an event.
func (s *Service) fetchAuth(ctx context.Context, origin, dest id.Server, room id.Room, eventID id.Event) (rawPDUs, error) {
	var out struct {
		Chain rawPDUs `json:"auth_chain"`
	}
	err := s.ask(ctx, request{origin: origin, dest: dest, method: http.MethodGet, timeout: longTimeout, max: largeAnswer,
		uri: fedPath("v1", "event_auth", string(room), string(eventID))}, &out)
	return out.Chain, err
}

// fetchMissing asks for the events between what we have and what we heard of (server-server API, "Retrieving missing
// events").
func (s *Service) fetchMissing(ctx context.Context, origin, dest id.Server, room id.Room, have, heard []id.Event, minDepth int64) (rawPDUs, error) {
	var out struct {
		Events rawPDUs `json:"events"`
	}
	err := s.ask(ctx, request{origin: origin, dest: dest, method: http.MethodPost, max: 4 * smallAnswer,
		uri: fedPath("v1", "get_missing_events", string(room)), body: map[string]any{
			"earliest_events": have, "latest_events": heard, "limit": missingLimit, "min_depth": minDepth,
		}}, &out)
	return out.Events, err
}

// stateIDs is the state before an event, as another server sees it.
type stateIDs struct {
	State []id.Event `json:"pdu_ids"`
	Auth  []id.Event `json:"auth_chain_ids"`
}

func (s *Service) fetchStateIDs(ctx context.Context, origin, dest id.Server, room id.Room, at id.Event) (*stateIDs, error) {
	out := new(stateIDs)
	err := s.ask(ctx, request{origin: origin, dest: dest, method: http.MethodGet, timeout: longTimeout, max: largeAnswer,
		uri: fedPath("v1", "state_ids", string(room)) + "?event_id=" + url.QueryEscape(string(at))}, out)
	return out, err
}

func (s *Service) fetchState(ctx context.Context, origin, dest id.Server, room id.Room, at id.Event) (state, chain rawPDUs, err error) {
	var out struct {
		State rawPDUs `json:"pdus"`
		Chain rawPDUs `json:"auth_chain"`
	}
	err = s.ask(ctx, request{origin: origin, dest: dest, method: http.MethodGet, timeout: longTimeout, max: largeAnswer,
		uri: fedPath("v1", "state", string(room)) + "?event_id=" + url.QueryEscape(string(at))}, &out)
	return out.State, out.Chain, err
}

func (s *Service) fetchBackfill(ctx context.Context, origin, dest id.Server, room id.Room, from []id.Event, limit int) (rawPDUs, error) {
	var out struct {
		PDUs rawPDUs `json:"pdus"`
	}
	q := url.Values{"limit": {fmt.Sprint(limit)}}
	for _, e := range from {
		q.Add("v", string(e))
	}
	err := s.ask(ctx, request{origin: origin, dest: dest, method: http.MethodGet, timeout: longTimeout, max: 16 * smallAnswer,
		uri: fedPath("v1", "backfill", string(room)) + "?" + q.Encode()}, &out)
	return out.PDUs, err
}
