package fedout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hanse/pkg/destination"
	"hanse/pkg/fedclient"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/merr"
	commonv1 "hanse/proto/common/v1"
	fedv1 "hanse/proto/federation/v1"
)

const (
	defaultMaxBytes = 16 << 20
	defaultTimeout  = 30 * time.Second
	longestTimeout  = 10 * time.Minute
	chunkBytes      = 64 << 10
	// maxRequestBody is far above a transaction of 50 PDUs and 100 EDUs.
	maxRequestBody = 16 << 20
)

// Do implements fedv1.FedOutServer.
func (s *Service) Do(in *fedv1.DoRequest, stream grpc.ServerStreamingServer[fedv1.DoResponse]) error {
	q, err := s.checkRequest(in)
	if err != nil {
		return err
	}
	leave, err := s.requests.enter(q.Server)
	if err != nil {
		return unreachable(q.Server, err, destination.State{}, false)
	}
	defer leave()
	ctx, cancel := context.WithTimeout(stream.Context(), requestTimeout(in.TimeoutMs))
	defer cancel()
	if !in.IgnoreBackoff || in.Sparing && s.vain.lately(q.Server) {
		if err := s.checkBackoff(ctx, q.Server); err != nil {
			return err
		}
	}
	if err := s.sign(ctx, id.Server(in.Origin), &q); err != nil {
		return err
	}
	start := time.Now()
	resp, err := s.client.Do(ctx, q)
	if err != nil {
		return s.failed(stream.Context(), q.Server, time.Since(start), err)
	}
	defer resp.Body.Close()
	s.answered(ctx, q.Server, start, resp.Status)
	if err := relay(stream, resp, in.Headers); err != nil {
		if errors.Is(err, fedclient.ErrTooLarge) {
			return status.Error(codes.ResourceExhausted, fmt.Sprintf("the answer of %s is larger than %d bytes", q.Server, q.MaxBytes))
		}
		return err
	}
	return nil
}

func requestTimeout(ms int64) time.Duration {
	if ms <= 0 {
		return defaultTimeout
	}
	return min(time.Duration(min(ms, longestTimeout.Milliseconds()))*time.Millisecond, longestTimeout)
}

func (s *Service) checkRequest(in *fedv1.DoRequest) (fedclient.Request, error) {
	server, err := id.ParseServer(in.Destination)
	if err != nil {
		return fedclient.Request{}, merr.InvalidParam(err.Error())
	}
	if s.servers.IsLocal(server) {
		return fedclient.Request{}, merr.InvalidParam(in.Destination + " is this server")
	}
	switch in.Method {
	case http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete:
	default:
		return fedclient.Request{}, merr.InvalidParam("Method " + in.Method)
	}
	if len(in.Body) > maxRequestBody {
		return fedclient.Request{}, merr.TooLarge("Request to another server")
	}
	q := fedclient.Request{Server: server, Method: in.Method, URI: in.Uri, MaxBytes: in.MaxBytes}
	if q.MaxBytes <= 0 {
		q.MaxBytes = defaultMaxBytes
	}
	if len(in.Body) > 0 {
		q.Body = in.Body
	}
	return q, nil
}

// sign puts the Authorization header on a request.
func (s *Service) sign(ctx context.Context, origin id.Server, q *fedclient.Request) error {
	key, err := s.servers.SigningKey(ctx, origin)
	if err != nil {
		return fmt.Errorf("key of %s: %w", origin, err)
	}
	q.Authorization, err = signing.SignRequest(q.Method, q.URI, origin, q.Server, q.Body, key)
	return err
}

// relay streams an answer: the status first, with the headers that the caller wants, then the body in pieces.
func relay(stream grpc.ServerStreamingServer[fedv1.DoResponse], resp *fedclient.Response, headers []string) error {
	msg := &fedv1.DoResponse{Status: int32(resp.Status)}
	for _, name := range headers {
		if value := resp.Header.Get(name); value != "" {
			if msg.Headers == nil {
				msg.Headers = make(map[string]string, len(headers))
			}
			msg.Headers[name] = value
		}
	}
	buf := make([]byte, chunkBytes)
	for {
		n, err := io.ReadFull(resp.Body, buf)
		msg.Chunk = buf[:n]
		end := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !end {
			return fmt.Errorf("read answer: %w", err)
		}
		if n > 0 || msg.Status != 0 {
			if err := stream.Send(msg); err != nil {
				return err
			}
		}
		if end {
			return nil
		}
		// What was sent may still be read by a caller in this process.
		msg, buf = new(fedv1.DoResponse), make([]byte, chunkBytes)
	}
}

// checkBackoff fails fast for a destination that is backing off.
func (s *Service) checkBackoff(ctx context.Context, server id.Server) error {
	st, err := s.dests.Get(ctx, server)
	if err != nil {
		s.log.Warn("backoff could not be read", "destination", server, "err", err)
		return nil
	}
	if st.BackingOff(time.Now()) {
		return unreachable(server, errors.New("backing off"), st, true)
	}
	return nil
}

// patience is how long a destination may be silent before that counts as a failure, whoever gives up.
const patience = 10 * time.Second

// failed notes that a destination gave no answer, and makes the error for the caller. caller is the context of who
// asked: if that has ended early, nothing is known about the destination.
func (s *Service) failed(caller context.Context, server id.Server, waited time.Duration, cause error) error {
	var e *fedclient.Error
	if !errors.As(cause, &e) {
		if errors.Is(cause, fedclient.ErrTooLarge) {
			return status.Error(codes.ResourceExhausted, cause.Error())
		}
		return cause
	}
	if caller.Err() != nil && (waited < patience || errors.Is(caller.Err(), context.Canceled)) {
		return caller.Err()
	}
	s.vain.waited(server, waited)
	return unreachable(server, cause, s.noteFailure(caller, server, time.Now().Add(-waited)), false)
}

// noteFailure raises the backoff of a destination, of which a request failed.
func (s *Service) noteFailure(ctx context.Context, server id.Server, began time.Time) destination.State {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	st, err := s.dests.Failed(ctx, server, began)
	if err != nil {
		s.log.Warn("backoff could not be stored", "destination", server, "err", err)
		st = destination.State{Failures: 1, RetryAfter: time.Now().Add(destination.First)}
	}
	return st
}

// answered notes the health of a destination that gave an answer to a request. A proxy that answers in its place does not count.
func (s *Service) answered(ctx context.Context, server id.Server, began time.Time, statusCode int) {
	switch statusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		s.noteFailure(ctx, server, began)
	default:
		s.vain.answered(server)
		s.noteSuccess(ctx, server, time.Now())
	}
}

func (s *Service) noteSuccess(ctx context.Context, server id.Server, answered time.Time) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := s.dests.Succeeded(ctx, server, answered); err != nil {
		s.log.Warn("backoff could not be reset", "destination", server, "err", err)
		return
	}
	s.sender.revive(server)
}

// unreachable is the error for callers: UNAVAILABLE with its reason, and a Matrix error for whoever passes it on. untried
// says that the destination was not asked.
func unreachable(server id.Server, cause error, st destination.State, untried bool) error {
	detail := &fedv1.Unreachable{Destination: string(server), Untried: untried}
	if wait := time.Until(st.RetryAfter); wait > 0 {
		detail.BackingOff, detail.RetryAfterMs = true, wait.Milliseconds()
	}
	st2, err := status.New(codes.Unavailable, fmt.Sprintf("%s: %v", server, cause)).WithDetails(detail, &commonv1.MatrixError{
		HttpStatus: http.StatusBadGateway, Errcode: merr.CodeUnknown, Message: "Cannot reach " + string(server),
	})
	if err != nil {
		return err
	}
	return st2.Err()
}
