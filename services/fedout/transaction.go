package fedout

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/trace"

	"hanse/pkg/fedclient"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
)

// Limits of a transaction (server-server API, "Transactions").
const (
	maxPDUs = 50
	maxEDUs = 100
	// maxTransaction bounds the events of one transaction, in bytes; a single one may always go.
	maxTransaction = 2 << 20
	// transactionTimeout is how long the receiver may take: it may have to fetch what it lacks.
	transactionTimeout = 60 * time.Second
	transactionAnswer  = 1 << 20
)

// transaction is what goes to a destination at once.
type transaction struct {
	origin id.Server
	pdus   []pdu
	edus   []edu
	bytes  int
	// traces are those that its entries stem from.
	traces []trace.Link
}

type pdu struct {
	id   string
	json []byte
	// sent is the event's origin_server_ts if its delay is to be measured.
	sent int64
	// logPart and pos are where it stands in the log.
	logPart uint32
	pos     int64
}

type edu struct {
	Type    string          `json:"edu_type"`
	Content json.RawMessage `json:"content"`
}

func (t *transaction) empty() bool { return len(t.pdus) == 0 && len(t.edus) == 0 }

// single says whether nothing smaller could be sent.
func (t *transaction) single() bool { return len(t.pdus)+len(t.edus) == 1 }

// addEDU adds an EDU, if there is room for it.
func (t *transaction) addEDU(typ string, content any) error {
	raw, ok := content.([]byte)
	if !ok {
		var err error
		if raw, err = json.Marshal(content); err != nil {
			return err
		}
	}
	t.edus = append(t.edus, edu{typ, raw})
	t.bytes += len(raw)
	return nil
}

// body writes the transaction in an order that is canonical already; the events are as they were signed.
func (t *transaction) body(now time.Time) []byte {
	b := make([]byte, 0, t.bytes+len(t.pdus)+64*len(t.edus)+256)
	b = append(b, '{')
	if len(t.edus) > 0 {
		b = append(b, `"edus":[`...)
		for i, e := range t.edus {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(append(b, `{"content":`...), e.Content...)
			b = append(canonjson.AppendString(append(b, `,"edu_type":`...), e.Type), '}')
		}
		b = append(b, `],`...)
	}
	b = canonjson.AppendString(append(b, `"origin":`...), string(t.origin))
	b = strconv.AppendInt(append(b, `,"origin_server_ts":`...), now.UnixMilli(), 10)
	b = append(b, `,"pdus":[`...)
	for i, p := range t.pdus {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, p.json...)
	}
	return append(b, ']', '}')
}

// send makes one transaction. An error that is not a *refusal means that the destination failed.
func (d *dest) send(t *transaction) error {
	if err := d.enterSlot(); err != nil {
		return err
	}
	s := d.f.s
	q := fedclient.Request{Server: d.server, Method: http.MethodPut, URI: "/_matrix/federation/v1/send/" + rand.Text(),
		Body: t.body(time.Now()), MaxBytes: transactionAnswer}
	if err := s.sign(d.p.Context(), t.origin, &q); err != nil {
		return err
	}
	start := time.Now()
	status, answer, err := d.request(q)
	if err == nil && time.Since(start) < swiftAnswer {
		d.f.swift.Add(d.server, struct{}{})
	} else {
		d.f.swift.Remove(d.server)
	}
	if err != nil {
		return err
	}
	switch {
	case status == http.StatusOK:
	case status == http.StatusRequestTimeout || status == http.StatusTooManyRequests:
		return fmt.Errorf("%s answered %d %.200q", d.server, status, answer)
	case status >= 400 && status <= http.StatusInternalServerError:
		return &refusal{status, fmt.Sprintf("%.200q", answer)}
	default:
		return fmt.Errorf("%s answered %d %.200q", d.server, status, answer)
	}
	s.metrics.seconds.Observe(time.Since(start).Seconds())
	d.account(t, answer)
	return nil
}

// request makes a request in the slot that the goroutine has. If the answer takes long, the slot is somebody else's
// afterwards.
func (d *dest) request(q fedclient.Request) (status int, answer []byte, err error) {
	stopping, stop := context.WithCancelCause(d.p.Context())
	defer stop(nil)
	ctx, cancel := context.WithTimeout(stopping, transactionTimeout)
	defer cancel()
	end := d.f.slots.move(d.leaveSlot, len(q.Body), stop)
	defer func() {
		if !end() {
			d.leaveSlot = nil
		}
		if cause := context.Cause(ctx); err != nil && errors.Is(cause, errOverloaded) {
			err = cause
		}
	}()
	resp, err := d.f.s.client.Do(ctx, q)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	if answer, err = io.ReadAll(resp.Body); err != nil {
		return 0, nil, fmt.Errorf("read answer of %s: %w", d.server, err)
	}
	return resp.Status, answer, nil
}

// account counts what was sent. Errors of single events concern the receiver: they are not sent again.
func (d *dest) account(t *transaction, answer []byte) {
	m := d.f.s.metrics
	var results struct {
		PDUs map[string]struct {
			Error string `json:"error"`
		} `json:"pdus"`
	}
	if err := json.Unmarshal(answer, &results); err != nil {
		d.f.s.log.Debug("answer to a transaction", "destination", d.server, "err", err)
	}
	now, failed := time.Now().UnixMilli(), 0
	for _, p := range t.pdus {
		if r, ok := results.PDUs[p.id]; ok && r.Error != "" {
			failed++
			d.f.s.log.Info("event not taken", "destination", d.server, "event", p.id, "err", fmt.Sprintf("%.200s", r.Error))
		}
		if p.sent > 0 && now >= p.sent {
			m.delay.Observe(float64(now-p.sent) / 1000)
		}
	}
	m.pdus.WithLabelValues("error").Add(float64(failed))
	m.pdus.WithLabelValues("ok").Add(float64(len(t.pdus) - failed))
	for _, e := range t.edus {
		m.edus.WithLabelValues(eduLabel(e.Type)).Inc()
	}
}

// eduLabel keeps the number of labels small.
func eduLabel(typ string) string {
	switch typ {
	case eduReceipt, eduTyping, eduPresence, eduDevices, eduSigningKey, "m.direct_to_device":
		return typ
	}
	return "other"
}
