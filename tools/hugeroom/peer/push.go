package peer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/time/rate"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/tools/hugeroom"
)

// Pushing says how events are sent. The zero value of each field has a use.
type Pushing struct {
	// To is the server that they are sent to.
	To id.Server
	// Origin is the server that sends them all. Empty: each event comes from the server of its sender.
	Origin id.Server
	// PerTransaction is how many events one transaction has at most; 50 if zero.
	PerTransaction int
	// Rate is how many events are sent in a second; 0: as fast as they are taken.
	Rate float64
	// Attempts is how often a transaction is sent that is not taken; 8 if zero.
	Attempts int
}

// Pushed is what came of it.
type Pushed struct {
	// Sent is when the transaction of an event was first sent, Taken when it was answered.
	Sent, Taken map[id.Event]time.Time
	// Refused is what the other server said of events that it did not take.
	Refused map[id.Event]string
}

const (
	maxPush     = 50 // events in a transaction ("Transactions")
	pushTimeout = 5 * time.Minute
	maxAnswer   = 1 << 20
)

// Push sends events of the room in transactions, one after the other.
func (p *Peer) Push(ctx context.Context, how Pushing, numbers ...int) (*Pushed, error) {
	if how.PerTransaction <= 0 || how.PerTransaction > maxPush {
		how.PerTransaction = maxPush
	}
	if how.Attempts == 0 {
		how.Attempts = 8
	}
	limit := rate.NewLimiter(rate.Inf, 0)
	if how.Rate > 0 {
		limit = rate.NewLimiter(rate.Limit(how.Rate), how.PerTransaction)
	}
	var pdus []*event.PDU
	err := p.Room(func(room *hugeroom.Room) error { pdus = room.PDUs(numbers); return nil })
	if err != nil {
		return nil, err
	}
	out := &Pushed{Sent: make(map[id.Event]time.Time), Taken: make(map[id.Event]time.Time), Refused: make(map[id.Event]string)}
	for len(pdus) > 0 {
		origin := how.origin(pdus[0])
		n := 1
		for n < len(pdus) && n < how.PerTransaction && how.origin(pdus[n]) == origin {
			n++
		}
		if err := limit.WaitN(ctx, n); err != nil {
			return out, err
		}
		if err := p.transaction(ctx, how, origin, pdus[:n], out); err != nil {
			return out, err
		}
		pdus = pdus[n:]
	}
	return out, nil
}

func (how *Pushing) origin(pdu *event.PDU) id.Server {
	if how.Origin != "" {
		return how.Origin
	}
	return pdu.Sender.Server()
}

// transaction sends one transaction until it is taken.
func (p *Peer) transaction(ctx context.Context, how Pushing, origin id.Server, pdus []*event.PDU, out *Pushed) error {
	list := make([]json.RawMessage, len(pdus))
	now := time.Now()
	for i, pdu := range pdus {
		list[i] = pdu.JSON
		out.Sent[pdu.ID] = now
	}
	body, err := json.Marshal(map[string]any{"origin": origin, "origin_server_ts": now.UnixMilli(), "pdus": list})
	if err != nil {
		return err
	}
	uri := "/_matrix/federation/v1/send/huge" + strconv.FormatInt(now.UnixNano(), 36) + "-" + strconv.FormatInt(p.txn.Add(1), 36)
	var failed error
	for attempt := range how.Attempts {
		var results map[id.Event]struct {
			Error string `json:"error"`
		}
		if results, failed = p.put(ctx, how.To, origin, uri, body); failed == nil {
			for _, pdu := range pdus {
				out.Taken[pdu.ID] = time.Now()
				if r := results[pdu.ID]; r.Error != "" {
					out.Refused[pdu.ID] = r.Error
				}
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(failed, ctx.Err())
		case <-time.After(100 * time.Millisecond << attempt):
		}
	}
	return fmt.Errorf("transaction of %d events to %s: %w", len(pdus), how.To, failed)
}

func (p *Peer) put(ctx context.Context, to, origin id.Server, uri string, body []byte) (results map[id.Event]struct {
	Error string `json:"error"`
}, err error) {
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	header, err := signing.SignRequest(http.MethodPut, uri, origin, to, body, hugeroom.ServerKey(origin))
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "https://"+string(to)+uri, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", header)
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %d %.300s", to, resp.StatusCode, raw)
	}
	var answer struct {
		PDUs map[id.Event]struct {
			Error string `json:"error"`
		} `json:"pdus"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, fmt.Errorf("answer of %s: %w", to, err)
	}
	return answer.PDUs, nil
}
