package peer

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"syscall"
)

// Issuer makes certificates: a CA of package cluster.
type Issuer interface {
	Issue(names ...string) (tls.Certificate, error)
}

// Listener listens on one port of all loopback addresses.
type Listener struct {
	net.Listener
	ca Issuer

	mu    sync.Mutex
	certs map[string]*tls.Certificate
}

// Listen opens a port; 0 means any.
func Listen(ctx context.Context, ca Issuer, port int) (*Listener, error) {
	var lc net.ListenConfig
	lc.Control = func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = syscall.BindToDevice(int(fd), "lo") })
		if err != nil {
			return err
		}
		return failed // what does not come by way of the loopback device is not for this socket
	}
	l, err := lc.Listen(ctx, "tcp4", fmt.Sprintf("0.0.0.0:%d", port))
	if err != nil {
		return nil, fmt.Errorf("listen on loopback addresses: %w", err)
	}
	return &Listener{Listener: l, ca: ca, certs: make(map[string]*tls.Certificate)}, nil
}

// Port is where it listens.
func (l *Listener) Port() int { return l.Addr().(*net.TCPAddr).Port }

func (l *Listener) tls() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: l.certificate}
}

// certificate is the one for the address that somebody connected to.
func (l *Listener) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	host, _, err := net.SplitHostPort(hello.Conn.LocalAddr().String())
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.certs[host]; c != nil {
		return c, nil
	}
	cert, err := l.ca.Issue(host)
	if err != nil {
		return nil, err
	}
	l.certs[host] = &cert
	return &cert, nil
}
