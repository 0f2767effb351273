package room

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"

	"hanse/pkg/matrix/id"
	federationv1 "hanse/proto/federation/v1"
)

// maxElement bounds one element of an answer that is read as a stream, with what is read ahead of it: an event has 64 KiB
// at most.
const maxElement = 1 << 20

// A server that is asked for much must get on: so many bytes in so much time for which we wait for it. Before the first of
// them it may compute for longer.
const (
	leastProgress = 256 << 10
	progressIn    = 30 * time.Second
	firstIn       = 2 * time.Minute
)

// errTrickles says that a server sends too slowly.
var errTrickles = errors.New("it sends too slowly")

// streamed is an answer that is read while it comes.
type streamed struct {
	stream grpc.ServerStreamingClient[federationv1.DoResponse]
	server id.Server
	buf    []byte
	left   int64 // bytes that may still come
	since  int   // bytes since the last element

	// stop ends the stream.
	stop func()
	// patience is what is left of the time for came to become leastProgress.
	patience time.Duration
	came     int
	err      error // that ended it
}

// recv receives the next part of the answer. The time that we take to use what came does not count.
func (r *streamed) recv() (*federationv1.DoResponse, error) {
	if r.err != nil {
		return nil, r.err
	}
	began := time.Now()
	slow := time.AfterFunc(r.patience, r.stop)
	m, err := r.stream.Recv()
	if !slow.Stop() {
		err = errTrickles
	}
	if err != nil { // io.EOF at the end
		r.err = err
		return nil, err
	}
	r.came += len(m.Chunk)
	if r.patience -= time.Since(began); r.came >= leastProgress {
		r.patience, r.came = progressIn, 0
	}
	return m, nil
}

// askStream makes a request whose answer is an object with long lists: each is handed every element of those of its
// members that are lists and named. Nothing but the element at hand is kept.
func (s *Service) askStream(ctx context.Context, q request, each func(list string, element json.RawMessage) error, lists ...string) error {
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	if s.fedout == nil {
		return errors.New("there is no way to other servers")
	}
	stream, err := s.fedout.Do(ctx, &federationv1.DoRequest{Origin: string(q.origin), Destination: string(q.dest), Method: q.method,
		Uri: q.uri, TimeoutMs: q.timeout.Milliseconds(), MaxBytes: q.max})
	if err != nil {
		return fmt.Errorf("ask %s: %w: %w", q.dest, errUnanswered, err)
	}
	in := &streamed{stream: stream, server: q.dest, left: q.max, stop: cancel, patience: firstIn}
	first, err := in.recv()
	if err != nil {
		return fmt.Errorf("ask %s: %w: %w", q.dest, errUnanswered, err)
	}
	in.buf, in.patience = first.Chunk, progressIn
	if first.Status < 200 || first.Status > 299 {
		in.left = smallAnswer
		body, err := io.ReadAll(in)
		if err != nil {
			return err
		}
		return &fedError{q.dest, int(first.Status), body}
	}
	if err := in.object(each, lists); err != nil {
		return fmt.Errorf("ask %s: %w", q.dest, err)
	}
	return nil
}

// Read implements io.Reader.
func (r *streamed) Read(p []byte) (int, error) {
	for len(r.buf) == 0 {
		m, err := r.recv()
		if errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		if err != nil {
			return 0, fmt.Errorf("%w: %w", errUnanswered, err)
		}
		r.buf = m.Chunk
	}
	n := copy(p, r.buf)
	r.buf = r.buf[n:]
	r.left -= int64(n)
	r.since += n
	if r.left < 0 || r.since > maxElement {
		return 0, fmt.Errorf("the answer of %s is too large", r.server)
	}
	return n, nil
}

// object reads the answer.
func (r *streamed) object(each func(string, json.RawMessage) error, lists []string) error {
	d := json.NewDecoder(r)
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.Join(err, errors.New("the answer is no object"))
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		name, _ := key.(string)
		if err := r.member(d, name, each, lists); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

func (r *streamed) member(d *json.Decoder, name string, each func(string, json.RawMessage) error, lists []string) error {
	wanted := false
	for _, l := range lists {
		wanted = wanted || l == name
	}
	if !wanted {
		var skipped json.RawMessage
		err := d.Decode(&skipped)
		r.since = 0
		return err
	}
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return errors.Join(err, fmt.Errorf("%s is no list", name))
	}
	for d.More() {
		var element json.RawMessage
		if err := d.Decode(&element); err != nil {
			return err
		}
		r.since = 0
		if err := each(name, element); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}
