// Package bustest gives tests a NATS server of their own that can be stopped, wiped and started
// again on the same port.
package bustest

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"hanse/pkg/bus"
	"hanse/pkg/freeport"
)

// patience bounds the start of a server, on a machine that does much else.
const patience = 2 * time.Minute

// Server is a NATS server on a port of its own.
type Server struct {
	tb   testing.TB
	dir  string
	port int
	srv  *server.Server
}

// New starts a server that ends with the test.
func New(tb testing.TB) *Server {
	tb.Helper()
	port, err := freeport.Port() // still free when it is started again
	if err != nil {
		tb.Fatalf("nats: %v", err)
	}
	s := &Server{tb: tb, dir: tb.TempDir(), port: port}
	s.Start()
	tb.Cleanup(s.Stop)
	return s
}

// Start starts the server again, on the same port, with what is left of its data.
func (s *Server) Start() {
	s.tb.Helper()
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: s.port, JetStream: true,
		StoreDir: s.dir, NoSigs: true, NoLog: true})
	if err != nil {
		s.tb.Fatalf("nats: %v", err)
	}
	srv.Start()
	if !srv.ReadyForConnections(patience) {
		s.tb.Fatalf("nats: not ready after %s", patience)
	}
	s.srv = srv
}

// Stop stops the server; its files stay.
func (s *Server) Stop() {
	if s.srv != nil {
		s.srv.Shutdown()
		s.srv.WaitForShutdown()
		s.srv = nil
	}
}

// Wipe stops the server and makes it forget everything.
func (s *Server) Wipe() {
	s.Stop()
	s.dir = s.tb.TempDir()
}

// URL is where the server listens.
func (s *Server) URL() string { return fmt.Sprintf("nats://127.0.0.1:%d", s.port) }

// Open returns a connection of its own, closed after the test.
func (s *Server) Open(name string) *bus.Bus {
	s.tb.Helper()
	b, err := bus.Open(s.tb.Context(), bus.Config{URL: s.URL(), Name: name})
	if err != nil {
		s.tb.Fatalf("bus: %v", err)
	}
	s.tb.Cleanup(b.Close)
	return b
}
