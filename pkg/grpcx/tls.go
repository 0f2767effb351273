package grpcx

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/metric"
)

// TLS protects the connections between workers. Server and Client return what is to be used for a handshake: they are called
// for each one, so certificates and CAs may change while the process runs.
type TLS struct {
	// Server requires callers to have a certificate.
	Server func() *tls.Config
	// Client verifies the server. An empty ServerName stands for the host that is called.
	Client func() *tls.Config
	// Permissive is for the time in which TLS is switched on or off: the server takes plain connections and wrong certificates
	// too, and a call that cannot have TLS is made without it. Each such connection is counted.
	Permissive bool
}

// unprotected counts the connections that only permissive mode lets pass.
type unprotected struct {
	side string
	n    *prometheus.CounterVec
	log  *slog.Logger
}

func newUnprotected(cfg Config, side string) *unprotected {
	return &unprotected{side: side, log: cfg.Log, n: metric.Register(cfg.Registerer, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hanse_grpc_unprotected_total",
		Help: "Connections between workers that are let pass only because listen.grpc.permissive is set, by what they lack.",
	}, []string{"side", "lacks"}))}
}

// note counts a connection. What it lacks is "tls" or "certificate".
func (u *unprotected) note(lacks string, addr string, err error) {
	u.n.WithLabelValues(u.side, lacks).Inc()
	u.log.Warn("a connection between workers is not protected", "side", u.side, "lacks", lacks, "addr", addr, "err", err)
}

var protocols = []string{"h2"}

// listen puts TLS on a listener. It is not left to gRPC's credentials, since the in-memory side of the server has none.
func (t *TLS) listen(l net.Listener, cfg Config) net.Listener {
	if t.Permissive {
		return &permissiveListener{Listener: l, tls: t, notes: newUnprotected(cfg, "server")}
	}
	return tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return t.serverConfig(), nil
	}})
}

func (t *TLS) serverConfig() *tls.Config {
	c := t.Server()
	c.NextProtos = protocols
	c.SessionTicketsDisabled = true // each connection is judged by the CAs of the day
	return c
}

// dialer connects to workers.
func (t *TLS) dialer(cfg Config) func(ctx context.Context, addr string) (net.Conn, error) {
	notes := newUnprotected(cfg, "client")
	return func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := t.dial(ctx, addr)
		if err == nil || !t.Permissive || ctx.Err() != nil || !errors.As(err, new(*handshakeError)) {
			return conn, err
		}
		lacks := "tls"
		if errors.As(err, new(*tls.CertificateVerificationError)) {
			lacks = "certificate"
		}
		notes.note(lacks, addr, err)
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
}

// handshakeError is an error of TLS on a connection that there is.
type handshakeError struct{ error }

func (e *handshakeError) Unwrap() error { return e.error }

func (t *TLS) dial(ctx context.Context, addr string) (net.Conn, error) {
	c := t.Client()
	c.NextProtos = protocols
	if c.ServerName == "" {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		c.ServerName = host
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	secured := tls.Client(conn, c)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close() // nothing was written but the handshake
		return nil, &handshakeError{fmt.Errorf("TLS with %s: %w", addr, err)}
	}
	return secured, nil
}

// permissiveListener takes TLS and plain connections.
type permissiveListener struct {
	net.Listener
	tls   *TLS
	notes *unprotected
}

func (l *permissiveListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &permissiveConn{Conn: conn, l: l}, nil
}

// permissiveConn finds out what the other side speaks when it is first read from or written to, in the goroutine of its
// connection: Accept must not wait for anybody.
type permissiveConn struct {
	net.Conn
	l    *permissiveListener
	once sync.Once
	in   net.Conn
	err  error
}

// handshakeRecord is the first byte of each TLS connection, and of no HTTP/2 connection.
const handshakeRecord = 22

func (c *permissiveConn) open() error {
	c.once.Do(func() {
		first := make([]byte, 1)
		if _, c.err = io.ReadFull(c.Conn, first); c.err != nil {
			return
		}
		c.in = &unread{Conn: c.Conn, first: first}
		if first[0] != handshakeRecord {
			c.l.notes.note("tls", c.RemoteAddr().String(), nil)
			return
		}
		config := c.l.tls.serverConfig()
		cas := config.ClientCAs
		config.ClientAuth = tls.RequestClientCert
		config.VerifyConnection = func(s tls.ConnectionState) error {
			if err := verifyCaller(s.PeerCertificates, cas); err != nil {
				c.l.notes.note("certificate", c.RemoteAddr().String(), err)
			}
			return nil
		}
		c.in = tls.Server(c.in, config)
	})
	return c.err
}

// verifyCaller is what tls.RequireAndVerifyClientCert does.
func verifyCaller(chain []*x509.Certificate, cas *x509.CertPool) error {
	if len(chain) == 0 {
		return errors.New("the caller has no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: cas, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

func (c *permissiveConn) Read(b []byte) (int, error) {
	if err := c.open(); err != nil {
		return 0, err
	}
	return c.in.Read(b)
}

func (c *permissiveConn) Write(b []byte) (int, error) {
	if err := c.open(); err != nil {
		return 0, err
	}
	return c.in.Write(b)
}

// unread is a connection of which a byte was read that counts as not read.
type unread struct {
	net.Conn
	first []byte
}

func (u *unread) Read(b []byte) (int, error) {
	if len(u.first) > 0 {
		n := copy(b, u.first)
		u.first = u.first[n:]
		return n, nil
	}
	return u.Conn.Read(b)
}
