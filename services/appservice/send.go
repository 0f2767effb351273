package appservice

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/asclient"
)

const (
	// firstPause and longestPause bound how long a service that has failed is left alone.
	firstPause   = time.Second
	longestPause = 5 * time.Minute
	// maxError bounds what is kept of an error or an answer, in bytes.
	maxError = 500
	// transactionAnswer is how much of the answer to a transaction is read.
	transactionAnswer = 64 << 10
)

// health is how a service has answered lately.
type health struct {
	failures  int // attempts in a row that have failed
	since     time.Time
	lastError string
	// legacy says that the service knows the older paths only; it is asked for the newer one again after a while.
	legacy time.Time
}

// legacyFor is how long only the older path of a service is used.
const legacyFor = time.Hour

// send sends the transaction that is stored and not acknowledged.
func (s *stream) send() (bool, error) {
	s.mu.Lock()
	healthy := s.health.failures == 0
	s.mu.Unlock()
	leave, err := s.b.s.slots.enter(s.going, healthy)
	if err != nil {
		return false, nil // it was left
	}
	defer leave()
	if err := s.load(); err != nil {
		return false, err
	}
	s.b.s.metrics.underWay.Inc()
	start := time.Now()
	err = s.put()
	s.b.s.metrics.underWay.Dec()
	if s.b.Context().Err() != nil {
		return false, nil // the next owner repeats it
	}
	if err != nil {
		return false, s.failed(err)
	}
	s.b.s.metrics.answer.Observe(time.Since(start).Seconds())
	return true, s.acknowledged()
}

// load reads the transaction, if it is not in memory.
func (s *stream) load() error {
	s.mu.Lock()
	known := s.body != nil
	s.mu.Unlock()
	if known {
		return nil
	}
	var txn int64
	var body, toDevice []byte
	if err := s.b.s.shards.For(s.b.N).QueryRow(s.b.Context(), sqlBody, int32(s.b.N), s.id).Scan(&txn, &body, &toDevice); err != nil {
		return fmt.Errorf("read transaction: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if txn != s.txn || body == nil {
		return fmt.Errorf("transaction %d is not stored, but %d", s.txn, txn)
	}
	s.body, s.marks = body, toDevice
	return nil
}

// put makes the request (application service API, PUT /_matrix/app/v1/transactions/{txnId}).
func (s *stream) put() error {
	s.mu.Lock()
	service, body, txn, legacy := s.service, s.body, strconv.FormatInt(s.txn, 10), time.Since(s.health.legacy) < legacyFor
	s.mu.Unlock()
	ask := func(path string) (asclient.Answer, error) {
		return s.b.s.client.Do(s.b.Context(), service, asclient.Request{Method: http.MethodPut, Path: path + txn, Body: body,
			Timeout: s.b.s.cfg.Timeout, MaxAnswer: transactionAnswer})
	}
	const stable, older = "/_matrix/app/v1/transactions/", "/transactions/"
	path := stable
	if legacy {
		path = older
	}
	a, err := ask(path)
	if err == nil && path == stable && unknownPath(a.Status) { // application service API, "Legacy routes"
		if b, olderErr := ask(older); olderErr == nil && b.OK() {
			s.mu.Lock()
			s.health.legacy = time.Now()
			s.mu.Unlock()
			return nil
		}
	}
	switch {
	case errors.Is(err, asclient.ErrTooLarge) && a.OK(): // nobody needs the answer
		return nil
	case err != nil:
		return err
	case !a.OK():
		return fmt.Errorf("status %d: %s", a.Status, a.Body)
	}
	return nil
}

func unknownPath(status int) bool {
	return status == http.StatusNotFound || status == http.StatusMethodNotAllowed || status == http.StatusNotImplemented
}

// acknowledged notes that the service has the transaction. The table learns of it with the next one.
//
// To-device messages in it are deleted first. If that fails it is sent again, and the service knows it by its id.
func (s *stream) acknowledged() error {
	s.b.s.metrics.transactions.WithLabelValues("ok").Inc()
	s.mu.Lock()
	marks := s.marks
	s.mu.Unlock()
	if err := s.delivered(s.b.Context(), marks); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.health.failures > 0 {
		s.b.s.log.Info("application service works again", "service", s.id, "failed", s.health.failures)
	}
	s.health = health{legacy: s.health.legacy}
	s.pending, s.body, s.marks, s.acked, s.lastOK = false, nil, nil, true, time.Now()
	switch {
	case len(s.queue) > 0:
		s.since = s.queue[0].came
	case !s.behind:
		s.since = time.Time{}
	}
	return nil
}

// saveAcknowledged stores that the service has the newest transaction, when there is no next one.
func (s *stream) saveAcknowledged() error {
	s.mu.Lock()
	acked, lastOK := s.acked, s.lastOK
	s.mu.Unlock()
	if !acked {
		return nil
	}
	var batch pgx.Batch
	batch.Queue(sqlAcknowledged, int32(s.b.N), s.id, millis(lastOK))
	if err := s.b.Store(s.b.Context(), &batch); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked = false
	return nil
}

// failed notes that the service has not taken the transaction. Until it does, it costs nothing but the attempts.
func (s *stream) failed(cause error) error {
	s.b.s.metrics.transactions.WithLabelValues("failed").Inc()
	s.catch = nil
	s.mu.Lock()
	h := &s.health
	if h.failures++; h.failures == 1 {
		h.since = time.Now()
		s.b.s.log.Warn("application service fails, and is tried again", "service", s.id, "err", short(cause.Error()))
	}
	h.lastError = short(cause.Error())
	pause := pauseAfter(h.failures)
	s.rest(pause)
	s.body = nil
	clear(s.heard)
	if len(s.queue) > 0 && !s.behind {
		s.fallBehind()
	}
	var batch pgx.Batch
	batch.Queue(sqlFailed, int32(s.b.N), s.id, h.failures, millis(h.since), millis(s.until), h.lastError, millis(s.since))
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(s.b.Context(), 10*time.Second)
	defer cancel()
	return s.b.Store(ctx, &batch)
}

// pauseAfter grows twofold with each failure, and is of another length for each service.
func pauseAfter(failures int) time.Duration {
	pause := min(firstPause<<min(failures-1, 20), longestPause)
	return pause/2 + rand.N(pause/2)
}

// short cuts what a service has said to what can be stored and logged.
func short(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == utf8.RuneError {
			return ' '
		}
		return r
	}, text)
	for len(text) > maxError {
		text = text[:maxError-3]
		for !utf8.ValidString(text) {
			text = text[:len(text)-1]
		}
		text += "..."
	}
	return text
}
