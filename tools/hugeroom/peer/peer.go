package peer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/tools/hugeroom"
)

// Config is how a peer behaves. The zero value of each field has a use.
type Config struct {
	// Roots are the certificates that the servers under test have theirs from.
	Roots *x509.CertPool
	// OmitMembers lets the peer answer send_join without members if it is asked to.
	OmitMembers bool
	// Before is called with the name of the endpoint before a request is worked on: it may wait, or return an error that
	// is the answer then. Nil does nothing.
	Before func(endpoint string, r *http.Request) error
	Log    *slog.Logger
}

// Peer is the servers of a room.
type Peer struct {
	cfg      Config
	listener *Listener
	names    map[id.Server]bool
	slots    chan struct{}
	client   *http.Client
	txn      atomic.Int64
	deaf     atomic.Bool

	mu   sync.Mutex // guards the room
	room *hugeroom.Room

	bookMu sync.Mutex
	book   Book

	keptMu sync.Mutex
	kept   map[id.Event]*event.PDU // what a deaf peer has been sent
}

// Book is what a peer has been asked and told.
type Book struct {
	// Requests and Bytes count requests, and bytes of their answers, by endpoint.
	Requests, Bytes map[string]int64
	// Came is when each event first came in a transaction, and Refused why it was not taken.
	Came    map[id.Event]time.Time
	Refused map[id.Event]string
	// Transactions, and events in them, repeated ones too.
	Transactions, PDUs int64
	// Told are the servers that got a transaction.
	Told map[id.Server]bool
}

const (
	underWay     = 256       // requests at once
	maxBody      = 12 << 20  // of a request
	maxBooked    = 1_000_000 // events that are remembered
	readPatience = time.Minute
)

// New makes a peer of a room whose names lead to the listener.
func New(l *Listener, room *hugeroom.Room, cfg Config) *Peer {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Before == nil {
		cfg.Before = func(string, *http.Request) error { return nil }
	}
	p := &Peer{cfg: cfg, listener: l, room: room, names: make(map[id.Server]bool), slots: make(chan struct{}, underWay),
		kept: make(map[id.Event]*event.PDU)}
	for _, s := range room.Servers() {
		p.names[s] = true
	}
	p.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: cfg.Roots, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 16}}
	p.book = Book{Requests: make(map[string]int64), Bytes: make(map[string]int64), Came: make(map[id.Event]time.Time),
		Refused: make(map[id.Event]string), Told: make(map[id.Server]bool)}
	return p
}

// Resident is the server that is usually asked to join.
func (p *Peer) Resident() id.Server { return p.room.Creator().Server() }

// Room gives access to the room.
func (p *Peer) Room(do func(*hugeroom.Room) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return do(p.room)
}

// Deafen lets transactions be noted and their events be kept, and go no further, from now on or until it is called with
// false: the room stays as it is, and costs nothing, until [Peer.CatchUp].
func (p *Peer) Deafen(deaf bool) { p.deaf.Store(deaf) }

// Booked returns what do makes of the book.
func (p *Peer) Booked(do func(*Book)) {
	p.bookMu.Lock()
	defer p.bookMu.Unlock()
	do(&p.book)
}

// Serve answers until the context ends.
func (p *Peer) Serve(ctx context.Context) error {
	srv := &http.Server{Handler: p.routes(), TLSConfig: p.listener.tls(), ReadHeaderTimeout: readPatience, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(p.cfg.Log.Handler(), slog.LevelDebug)}
	ended := make(chan error, 1)
	go func() { ended <- srv.ServeTLS(p.listener, "", "") }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	err := srv.Close() // tests do not wait for who still asks
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

func (p *Peer) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern, endpoint string, h handler) { mux.HandleFunc(pattern, p.wrap(endpoint, h)) }
	const fed = "/_matrix/federation/"
	handle("GET /_matrix/key/v2/server", "keys", p.serverKeys)
	handle("POST /_matrix/key/v2/query", "keys_query", p.queryKeys)
	handle("GET "+fed+"v1/version", "version", p.version)
	handle("GET "+fed+"v1/make_join/{room}/{user}", "make_join", p.makeJoin)
	handle("PUT "+fed+"v2/send_join/{room}/{event}", "send_join", p.sendJoin)
	handle("GET "+fed+"v1/make_leave/{room}/{user}", "make_leave", p.makeLeave)
	handle("PUT "+fed+"v2/send_leave/{room}/{event}", "send_leave", p.sendLeave)
	handle("GET "+fed+"v1/event/{event}", "event", p.event)
	handle("GET "+fed+"v1/event_auth/{room}/{event}", "event_auth", p.eventAuth)
	handle("GET "+fed+"v1/state/{room}", "state", p.state)
	handle("GET "+fed+"v1/state_ids/{room}", "state_ids", p.stateIDs)
	handle("POST "+fed+"v1/get_missing_events/{room}", "get_missing_events", p.missing)
	handle("GET "+fed+"v1/backfill/{room}", "backfill", p.backfill)
	handle("PUT "+fed+"v1/send/{txn}", "send", p.send)
	handle("/", "other", func(http.ResponseWriter, *http.Request) error { return merr.Unrecognized(http.StatusNotFound) })
	return mux
}

type handler func(http.ResponseWriter, *http.Request) error

// counted counts what is written.
type counted struct {
	http.ResponseWriter
	n int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n += int64(n)
	return n, err
}

func (p *Peer) wrap(endpoint string, h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case p.slots <- struct{}{}:
			defer func() { <-p.slots }()
		case <-r.Context().Done():
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		w.Header().Set("Content-Type", "application/json")
		c := &counted{ResponseWriter: w}
		err := p.cfg.Before(endpoint, r)
		if err == nil {
			err = h(c, r)
		}
		if err != nil {
			p.cfg.Log.Debug("request", "endpoint", endpoint, "server", r.Host, "err", err)
			if c.n > 0 {
				panic(http.ErrAbortHandler) // so that the reader does not take it for whole
			}
			merr.WriteHTTP(w, err)
		}
		p.Booked(func(b *Book) { b.Requests[endpoint]++; b.Bytes[endpoint] += c.n })
	}
}

// ours is the server that a request is for.
func (p *Peer) ours(r *http.Request) (id.Server, error) {
	name := id.Server(r.Host)
	if !p.names[name] {
		return "", merr.NotFound("No such server here: " + r.Host)
	}
	return name, nil
}

func answer(w http.ResponseWriter, v any) error { return json.NewEncoder(w).Encode(v) }
