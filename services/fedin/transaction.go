package fedin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/partition"
)

// Limits of a transaction (server-server API, "Transactions"). The body is bounded by what that allows: 50 PDUs and 100
// EDUs of 64 KiB each, and some white space.
const (
	maxPDUs        = 50
	maxEDUs        = 100
	maxTransaction = (maxPDUs+maxEDUs)*65536 + 1<<20
	maxTxnID       = 255
	// transactionsWaiting bounds the transactions of a server that wait for the one before.
	transactionsWaiting = 2
)

// transaction is the body of PUT /send.
type transaction struct {
	PDUs []json.RawMessage `json:"pdus"`
	EDUs []edu             `json:"edus"`
}

type edu struct {
	Type    string          `json:"edu_type"`
	Content json.RawMessage `json:"content"`
}

// UnmarshalJSON takes what is no EDU for one of no type: it must not cost the transaction.
func (e *edu) UnmarshalJSON(b []byte) error {
	type plain edu
	if canonjson.Decode(b, (*plain)(e)) != nil {
		*e = edu{}
	}
	return nil
}

// parseTransaction decodes the body. What single PDUs and EDUs are is looked at later.
func parseTransaction(body []byte) (*transaction, error) {
	t := new(transaction)
	if err := decode(body, t); err != nil {
		return nil, err
	}
	if len(t.PDUs) > maxPDUs {
		return nil, merr.New(http.StatusBadRequest, merr.CodeBadJSON, fmt.Sprintf("%d PDUs in a transaction, %d are allowed", len(t.PDUs), maxPDUs))
	}
	if len(t.EDUs) > maxEDUs {
		return nil, merr.New(http.StatusBadRequest, merr.CodeBadJSON, fmt.Sprintf("%d EDUs in a transaction, %d are allowed", len(t.EDUs), maxEDUs))
	}
	return t, nil
}

// badBody is the answer to a body of which nobody can say what was signed; nil if err does not say that.
func badBody(err error) *merr.Error {
	switch {
	case errors.Is(err, canonjson.ErrSyntax), errors.Is(err, canonjson.ErrUTF8):
		return merr.NotJSON("The request body is not JSON").WithCause(err)
	case errors.Is(err, canonjson.ErrDepth), errors.Is(err, canonjson.ErrNumber), errors.Is(err, canonjson.ErrDuplicate):
		return merr.BadJSON("The request body has no canonical form").WithCause(err)
	}
	return nil
}

// send answers PUT /_matrix/federation/v1/send/{txnId}.
func (f *Fedin) send(w http.ResponseWriter, q *request) error {
	txnID := q.param("txnId")
	if txnID == "" || len(txnID) > maxTxnID || !plain(txnID) {
		return merr.InvalidParam("Not a transaction ID")
	}
	txnID = string(q.server) + " " + txnID // a server may count for each of this cluster's names by itself
	t, err := parseTransaction(q.body)
	if err != nil {
		f.metrics.transactions.WithLabelValues("malformed").Inc()
		return err
	}
	if answer, err := f.doneBefore(q.Context(), q.origin, txnID); err != nil || answer != nil {
		if err != nil {
			return err
		}
		f.metrics.transactions.WithLabelValues("repeated").Inc()
		return httpx.Raw(w, http.StatusOK, answer)
	}
	ctx, cancel := httpx.DetachedContext(q.Request, f.cfg.TransactionTime)
	type outcome struct {
		answer []byte
		err    error
	}
	done := make(chan outcome, 1)
	release := httpx.KeepBody(q.Request)
	f.tasks.Go(func() {
		defer release()
		defer cancel()
		answer, err := f.take(ctx, q, txnID, t)
		done <- outcome{answer, err}
	})
	select {
	case o := <-done:
		if o.err != nil {
			return o.err
		}
		return httpx.Raw(w, http.StatusOK, o.answer)
	case <-q.Context().Done():
		return q.Context().Err() // the work goes on, and the next attempt finds its answer
	}
}

// take waits for the transaction's turn and works on it.
func (f *Fedin) take(ctx context.Context, q *request, txnID string, t *transaction) ([]byte, error) {
	leave, err := f.gates.enter(ctx, "transaction", q.origin, 1, transactionsWaiting)
	if err != nil {
		f.metrics.transactions.WithLabelValues("limited").Inc()
		return nil, err
	}
	defer leave()
	select {
	case f.incoming <- struct{}{}:
		defer func() { <-f.incoming }()
	case <-ctx.Done():
		f.metrics.transactions.WithLabelValues("limited").Inc()
		return nil, merr.LimitExceeded(5000).WithCause(ctx.Err())
	}
	if answer, err := f.doneBefore(ctx, q.origin, txnID); err != nil || answer != nil {
		return answer, err
	}
	f.metrics.underWay.Inc()
	defer f.metrics.underWay.Dec()
	start := time.Now()
	answer, err := f.work(ctx, q, t)
	f.metrics.duration.Observe(time.Since(start).Seconds())
	if err == nil {
		err = f.noteDone(ctx, q.origin, txnID, answer)
	}
	if err != nil {
		f.metrics.transactions.WithLabelValues("failed").Inc()
		f.log.WarnContext(ctx, "transaction not processed", "server", q.origin, "txn", txnID, "err", err)
		return nil, merr.Unavailable("The transaction cannot be taken now").WithCause(err)
	}
	f.metrics.transactions.WithLabelValues("taken").Inc()
	return answer, nil
}

// work takes in what the transaction carries. An error means that it must be sent again.
func (f *Fedin) work(ctx context.Context, q *request, t *transaction) ([]byte, error) {
	results, err := f.receivePDUs(ctx, q.origin, t.PDUs)
	if err != nil {
		return nil, err
	}
	if err := f.receiveEDUs(ctx, q, t.EDUs); err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"pdus": results})
}

func (f *Fedin) doneBefore(ctx context.Context, origin id.Server, txnID string) ([]byte, error) {
	part := partition.Of(string(origin))
	var answer []byte
	err := f.shards.For(part).QueryRow(ctx, sqlDoneTransaction, int32(part), string(origin), txnID).Scan(&answer)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for transaction: %w", err)
	}
	return answer, nil
}

func (f *Fedin) noteDone(ctx context.Context, origin id.Server, txnID string, answer []byte) error {
	part := partition.Of(string(origin))
	_, err := f.shards.For(part).Exec(ctx, sqlNoteTransaction, int32(part), string(origin), txnID, answer, time.Now().UnixMilli())
	if err != nil {
		return fmt.Errorf("note transaction: %w", err)
	}
	return nil
}

// prune deletes answers that nobody will ask for any more.
func (f *Fedin) prune(ctx context.Context) error {
	before := time.Now().Add(-f.cfg.KeepTransactions).UnixMilli()
	all := make([]uint32, f.shards.P())
	for i := range all {
		all[i] = uint32(i)
	}
	for pool, parts := range f.shards.Groups(all) {
		of := make([]int32, len(parts))
		for i, part := range parts {
			of[i] = int32(part)
		}
		if _, err := pool.Exec(ctx, sqlPruneTransactions, of, before); err != nil {
			return fmt.Errorf("prune transactions: %w", err)
		}
	}
	return nil
}
