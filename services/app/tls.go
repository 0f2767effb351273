package app

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"hanse/pkg/grpcx"
)

// fresh is what a file has, read again when the file changes: renewing a certificate needs no restart.
type fresh[T any] struct {
	file string // tells by its time that it has changed
	read func() (T, error)

	mu      sync.Mutex
	value   T
	written time.Time // zero before the first reading
	checked time.Time
}

// checkEvery bounds how often files are looked at.
const checkEvery = 10 * time.Second

func readFresh[T any](file string, read func() (T, error)) (*fresh[T], error) {
	f := &fresh[T]{file: file, read: read}
	return f, f.look()
}

// get returns the newest value that could be read.
func (f *fresh[T]) get() T {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.checked) >= checkEvery {
		_ = f.look() // being replaced: the old value goes on until all files fit
	}
	return f.value
}

func (f *fresh[T]) look() error {
	f.checked = time.Now()
	info, err := os.Stat(f.file)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	if info.ModTime().Equal(f.written) {
		return nil
	}
	value, err := f.read()
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	f.value, f.written = value, info.ModTime()
	return nil
}

func readKeyPair(certFile, keyFile string) (*fresh[*tls.Certificate], error) {
	return readFresh(certFile, func() (*tls.Certificate, error) {
		cert, err := tls.LoadX509KeyPair(certFile, keyFile)
		return &cert, err
	})
}

func readCAs(file string) (*fresh[*x509.CertPool], error) {
	return readFresh(file, func() (*x509.CertPool, error) {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has none", file)
		}
		return pool, nil
	})
}

// serverTLS returns the TLS configuration of an HTTP listener; nil for plain HTTP.
func (a *API) serverTLS() (*tls.Config, error) {
	if a.TLSCert == "" {
		return nil, nil
	}
	pair, err := readKeyPair(a.TLSCert, a.TLSKey)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair.get(), nil },
	}, nil
}

// mutualTLS returns the TLS of the calls between workers; nil for plain. A certificate that other workers would refuse is an
// error, or a warning if the configuration is permissive: all calls to this worker would fail.
func (g *GRPC) mutualTLS(log *slog.Logger) (*grpcx.TLS, error) {
	if g.TLSCert == "" {
		return nil, nil
	}
	pair, err := readKeyPair(g.TLSCert, g.TLSKey)
	if err != nil {
		return nil, err
	}
	cas, err := readCAs(g.CA)
	if err != nil {
		return nil, err
	}
	if err := acceptable(pair.get(), cas.get(), g.verifiedName()); err != nil {
		err = fmt.Errorf("listen.grpc: other workers do not accept the certificate in %s: %w", g.TLSCert, err)
		if !g.Permissive {
			return nil, err
		}
		log.Warn("permissive", "err", err)
	}
	return &grpcx.TLS{
		Permissive: g.Permissive,
		Server: func() *tls.Config {
			return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*pair.get()},
				ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: cas.get()}
		},
		Client: func() *tls.Config {
			return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*pair.get()},
				RootCAs: cas.get(), ServerName: g.ServerName}
		},
	}, nil
}

// verifiedName is the name that callers find in this worker's certificate; empty if only they know it.
func (g *GRPC) verifiedName() string {
	if g.ServerName != "" {
		return g.ServerName
	}
	host, _, err := net.SplitHostPort(g.Advertise)
	if err != nil {
		return ""
	}
	return host
}

// acceptable reports why workers would refuse a certificate, as a server's and as a caller's.
func acceptable(cert *tls.Certificate, cas *x509.CertPool, name string) error {
	between := x509.NewCertPool()
	for _, der := range cert.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		between.AddCert(c)
	}
	_, server := cert.Leaf.Verify(x509.VerifyOptions{Roots: cas, Intermediates: between, DNSName: name,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if errors.As(server, new(x509.HostnameError)) {
		return fmt.Errorf("%w: set listen.grpc.server_name to a name that all workers' certificates are valid for", server)
	}
	_, client := cert.Leaf.Verify(x509.VerifyOptions{Roots: cas, Intermediates: between,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return errors.Join(server, client)
}
