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

	"golang.org/x/net/netutil"
)

// ServerConfig describes one listener.
type ServerConfig struct {
	// Listen is host:port.
	Listen string
	// TLS is nil behind a proxy that ends TLS.
	TLS *tls.Config
	// MaxConns bounds open connections (default 200,000); beyond it new ones wait in the kernel.
	MaxConns int
	Log      *slog.Logger
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
	s := &Server{listener: netutil.LimitListener(l, cfg.MaxConns), tls: cfg.TLS != nil}
	s.http = &http.Server{
		Handler: h,
		// No ReadTimeout and WriteTimeout: they would end long polls. Body gives the reading of a
		// body a deadline, and response the sending of an answer.
		ReadHeaderTimeout: 15 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          log.New(debugWriter{cfg.Log}, "", 0),
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
		_ = s.http.Close() // the listener is closed already; connections are cut
		return fmt.Errorf("http shutdown: %w", err)
	}
	return nil
}

// debugWriter sends the complaints of net/http about single connections (TLS handshakes of port
// scanners) to the debug log.
type debugWriter struct{ log *slog.Logger }

func (d debugWriter) Write(b []byte) (int, error) {
	d.log.Debug("http server", "msg", string(b))
	return len(b), nil
}
