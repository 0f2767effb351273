package httpx

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ServerConfig describes one listener.
type ServerConfig struct {
	// Listen is host:port.
	Listen string
	// TLS is nil behind a proxy that ends TLS.
	TLS *tls.Config
	// MaxConns bounds open connections (default 200,000); beyond it those without a request make room.
	MaxConns int
	// Name labels the metrics.
	Name       string
	Log        *slog.Logger
	Registerer prometheus.Registerer // may be nil
}

// Server is an HTTP server on one listener.
type Server struct {
	http     *http.Server
	listener net.Listener
	tls      bool
}

// NewServer binds the listener; nothing is served before Serve.
func NewServer(cfg ServerConfig, h http.Handler) (*Server, error) {
	if cfg.MaxConns <= 0 {
		cfg.MaxConns = 200_000
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("http: %w", err)
	}
	limited := newConns(l, cfg.MaxConns, cfg.Name, cfg.Registerer)
	s := &Server{listener: limited, tls: cfg.TLS != nil}
	s.http = &http.Server{
		Handler:     prompt(h),
		ConnState:   limited.state,
		ConnContext: withConn,
		// No ReadTimeout and WriteTimeout: they would end long polls. Body gives the reading of a
		// body deadlines, and response the sending of an answer.
		ReadHeaderTimeout: 15 * time.Second,
		// What HTTP/2 keeps of bodies that nobody has asked for is not in any account.
		HTTP2:          &http.HTTP2Config{MaxReceiveBufferPerConnection: 256 << 10, MaxReceiveBufferPerStream: 64 << 10, MaxConcurrentStreams: 100},
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 64 << 10,
		ErrorLog:       log.New(debugWriter{cfg.Log}, "", 0),
	}
	if cfg.TLS != nil {
		s.http.TLSConfig = cfg.TLS.Clone()
	}
	return s, nil
}

// Addr is the address that the listener is bound to.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Serve answers requests until Shutdown.
func (s *Server) Serve() error {
	var err error
	if s.tls {
		err = s.http.ServeTLS(s.listener, "", "") // the certificates are in TLSConfig
	} else {
		err = s.http.Serve(s.listener)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("http: %w", err)
}

// CloseIdle makes clients use new connections, which a load balancer takes elsewhere.
func (s *Server) CloseIdle() { s.http.SetKeepAlivesEnabled(false) }

// Shutdown stops to listen, lets requests in progress finish until ctx ends, then cuts them off.
func (s *Server) Shutdown(ctx context.Context) error {
	if err := s.http.Shutdown(ctx); err != nil {
		s.Cut() // the listener is closed already
		return fmt.Errorf("http shutdown: %w", err)
	}
	return nil
}

// Cut ends all connections at once.
func (s *Server) Cut() { _ = s.http.Close() }

// debugWriter sends the complaints of net/http about single connections (TLS handshakes of port
// scanners) to the debug log.
type debugWriter struct{ log *slog.Logger }

func (d debugWriter) Write(b []byte) (int, error) {
	d.log.Debug("http server", "msg", string(b))
	return len(b), nil
}
