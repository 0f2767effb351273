package push

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/follow"
	"hanse/pkg/netguard"
)

const (
	// longestRetry bounds the pause of a pusher that fails.
	longestRetry = time.Hour
	// lastWords bounds the time to note what was sent by a worker that has lost the partition.
	lastWords = 5 * time.Second
	// maxRefusals is how often a gateway may refuse an event before the event is dropped.
	maxRefusals = 3
	// answerBytes bounds what is read of an answer.
	answerBytes = 64 << 10
)

// errRejected says that there is nobody to send anything to any more.
var errRejected = errors.New("the push gateway does not know the pushkey")

// send sends what waits for a pusher, one request after the other, until one fails.
func (b *box) send(p *pusher, pass *pass) {
	good, retryAfter := true, time.Duration(0)
	defer func() { pass.leave(good, p.answered, retryAfter) }()
	defer b.end(p, true)
	err := b.sendAll(p)
	var f *failure
	switch {
	case err == nil || errors.Is(err, errRejected) || errors.Is(err, follow.ErrLost) || b.Context().Err() != nil:
	case errors.As(err, &f):
		good, retryAfter = f.mild, f.retryAfter
		b.fail(p, f)
	default:
		b.s.log.Warn("push stopped", "err", err) // our own error; the next look begins anew
	}
}

// sendAll sends until nothing waits.
func (b *box) sendAll(p *pusher) error {
	for {
		items, err := b.items(b.Context(), p)
		if err != nil || len(items) == 0 {
			return err
		}
		for i := range items {
			if b.leaving() {
				return nil
			}
			err := b.sendOne(p, &items[i])
			if b.refusedOften(p, &items[i], err) {
				err = b.drop(p, &items[i], err)
			}
			if err != nil {
				return err
			}
		}
	}
}

func (b *box) leaving() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.left || b.Context().Err() != nil
}

// sendOne sends one item, and stores that it was sent.
func (b *box) sendOne(p *pusher, it *item) error {
	ctx := b.Context()
	badge, read, err := b.badge(ctx, p, it)
	if err != nil {
		return err
	}
	var body []byte
	if !read {
		if body, err = b.notification(ctx, p, it, badge); err != nil {
			return err
		}
	}
	if body != nil {
		rejected, err := b.post(ctx, p, body)
		var f *failure
		if err == nil || errors.As(err, &f) && f.mild {
			p.answered = true
		}
		if err != nil {
			return err
		}
		if rejected {
			b.s.metrics.requests.WithLabelValues("rejected").Inc()
			return errors.Join(errRejected, b.reject(ctx, p))
		}
		b.s.metrics.requests.WithLabelValues("ok").Inc()
		b.s.metrics.delay.Observe(time.Since(time.UnixMilli(it.created)).Seconds())
		p.badge, p.failures = badge, 0
	} else if !it.badge() {
		b.s.metrics.dropped.WithLabelValues("gone").Inc()
	}
	var q pgx.Batch
	q.Queue(sqlSent, int32(b.N), p.user, p.app, p.pushkey, it.roomPart, it.pos, it.created)
	if body != nil {
		q.Queue(sqlTold, int32(b.N), p.user, p.app, p.pushkey, badge)
	}
	err = b.Store(ctx, &q)
	if errors.Is(err, follow.ErrLost) { // the next owner need not send it again
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
		defer cancel()
		_, failed := b.s.shards.For(b.N).Exec(ctx, sqlSent, int32(b.N), p.user, p.app, p.pushkey, it.roomPart, it.pos, it.created)
		return errors.Join(err, failed)
	}
	if err != nil {
		return fmt.Errorf("store what was sent: %w", err)
	}
	return nil
}

// refusal counts how often a gateway has refused the event that comes next.
type refusal struct {
	roomPart int32
	pos      int64
	times    int
}

// refusedOften notes the outcome of a request, and says whether the gateway works but refuses the event again and again: for what it
// says, such as its size. A worker that takes the partition counts anew.
func (b *box) refusedOften(p *pusher, it *item, err error) bool {
	var f *failure
	if !errors.As(err, &f) || !f.mild || it.badge() {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.refusals[p.pusherKey]
	if r.roomPart != it.roomPart || r.pos != it.pos {
		r = refusal{roomPart: it.roomPart, pos: it.pos}
	}
	if r.times++; r.times >= maxRefusals {
		delete(b.refusals, p.pusherKey)
		return true
	}
	if len(b.refusals) >= maxChecked {
		clear(b.refusals)
	}
	b.refusals[p.pusherKey] = r
	return false
}

// drop gives up an event that the gateway refuses, or the events behind it would wait for it.
func (b *box) drop(p *pusher, it *item, why error) error {
	b.s.metrics.requests.WithLabelValues("failed").Inc()
	b.s.log.Info("push gateway refuses a notification; it is dropped", "gateway", p.gateway, "app", p.app, "err", why)
	var q pgx.Batch
	q.Queue(sqlSent, int32(b.N), p.user, p.app, p.pushkey, it.roomPart, it.pos, it.created)
	if err := b.Store(b.Context(), &q); err != nil {
		return fmt.Errorf("drop what is refused: %w", err)
	}
	b.s.metrics.dropped.WithLabelValues("refused").Inc()
	return nil
}

// failure is why a gateway did not take a notification.
type failure struct {
	err        error
	retryAfter time.Duration
	// mild says that the gateway works, but not for this pusher.
	mild bool
	// refused says that its address is not connected to.
	refused bool
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// post sends a notification (Push Gateway API, POST /_matrix/push/v1/notify). rejected says that the gateway does not know the
// pushkey any more.
func (b *box) post(ctx context.Context, p *pusher, body []byte) (rejected bool, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return false, &failure{err: err, refused: true}
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := b.s.web.Do(r)
	if err != nil {
		var refused *netguard.Error
		return false, &failure{err: err, refused: errors.As(err, &refused)}
	}
	defer func() { _ = resp.Body.Close() }() // nothing more is read
	answer, err := io.ReadAll(io.LimitReader(resp.Body, answerBytes+1))
	switch {
	case err != nil:
		return false, &failure{err: err}
	case resp.StatusCode/100 != 2:
		return false, &failure{err: fmt.Errorf("the gateway answers %s", resp.Status), retryAfter: retryAfter(resp),
			mild: resp.StatusCode/100 == 4 && resp.StatusCode != http.StatusTooManyRequests}
	case len(answer) > answerBytes:
		return false, &failure{err: fmt.Errorf("the gateway answers more than %d bytes", answerBytes)}
	}
	var got struct {
		Rejected []string `json:"rejected"`
	}
	if err := json.Unmarshal(answer, &got); err != nil {
		return false, nil // some answer nothing, or no JSON; they took it
	}
	return slices.Contains(got.Rejected, p.pushkey), nil
}

// retryAfter reads the header of that name, in seconds or as a date.
func retryAfter(resp *http.Response) time.Duration {
	text := resp.Header.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil && seconds > 0 {
		return time.Duration(min(seconds, 24*3600)) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// fail makes a pusher wait after a failure.
func (b *box) fail(p *pusher, f *failure) {
	result := "failed"
	pause := min(firstPause<<min(p.failures, 20), longestRetry)
	if f.refused {
		result, pause = "refused", longestRetry
	}
	b.s.metrics.requests.WithLabelValues(result).Inc()
	b.s.log.Info("push gateway failed", "gateway", p.gateway, "app", p.app, "failures", p.failures+1, "err", f.err)
	until := time.Now().Add(max(pause/2+rand.N(pause/2), min(f.retryAfter, longestRetry)))
	if err := b.postpone(b.Context(), []*pusher{p}, until, 1); err != nil && !errors.Is(err, follow.ErrLost) && b.Context().Err() == nil {
		b.s.log.Warn("push: failure could not be stored", "err", err)
	}
}

// postpone makes pushers wait, and cuts down what waits for them to the newest event of each room.
func (b *box) postpone(ctx context.Context, some []*pusher, until time.Time, failures int) error {
	now := time.Now()
	var q pgx.Batch
	for _, p := range some {
		at := until
		if failures == 0 { // they come little by little
			at = at.Add(rand.N(time.Until(until)/4 + time.Millisecond))
		}
		q.Queue(sqlFailed, int32(b.N), p.user, p.app, p.pushkey, failures, now.UnixMilli(), at.UnixMilli())
		q.Queue(sqlCollapse, int32(b.N), p.user, p.app, p.pushkey, now.Add(-b.s.cfg.GiveUp).UnixMilli())
		b.wakeAt(p.user, at)
	}
	if err := b.Store(ctx, &q); err != nil {
		return fmt.Errorf("store who waits: %w", err)
	}
	return nil
}

// reject deletes a pusher that its gateway does not know any more.
func (b *box) reject(ctx context.Context, p *pusher) error {
	b.s.log.Info("push gateway has rejected a pushkey; its pusher is deleted", "gateway", p.gateway, "app", p.app, "user", p.user)
	var q pgx.Batch
	q.Queue(sqlReject, int32(b.N), p.user, p.app, p.pushkey)
	q.Queue(sqlRejectRows, int32(b.N), p.user, p.app, p.pushkey)
	if err := b.Store(ctx, &q); err != nil {
		return fmt.Errorf("delete pusher: %w", err)
	}
	return nil
}
