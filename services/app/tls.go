package app

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"time"
)

// keyPair is a certificate that is read again when its file changes, so that renewing it needs no restart.
type keyPair struct {
	certFile, keyFile string

	mu      sync.Mutex
	cert    *tls.Certificate
	written time.Time
	checked time.Time
}

// checkEvery bounds how often the files are looked at.
const checkEvery = 10 * time.Second

func loadKeyPair(certFile, keyFile string) (*keyPair, error) {
	k := &keyPair{certFile: certFile, keyFile: keyFile}
	if _, err := k.get(); err != nil {
		return nil, err
	}
	return k, nil
}

// get returns the newest certificate that could be read.
func (k *keyPair) get() (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cert != nil && time.Since(k.checked) < checkEvery {
		return k.cert, nil
	}
	k.checked = time.Now()
	info, err := os.Stat(k.certFile)
	if err == nil && k.cert != nil && info.ModTime().Equal(k.written) {
		return k.cert, nil
	}
	var cert tls.Certificate
	if err == nil {
		cert, err = tls.LoadX509KeyPair(k.certFile, k.keyFile)
	}
	if err != nil {
		if k.cert != nil { // being replaced: the old one goes on until both files fit
			return k.cert, nil
		}
		return nil, fmt.Errorf("certificate: %w", err)
	}
	k.cert, k.written = &cert, info.ModTime()
	return k.cert, nil
}

// serverTLS returns the TLS configuration of an HTTP listener; nil for plain HTTP.
func (a *API) serverTLS() (*tls.Config, error) {
	if a.TLSCert == "" {
		return nil, nil
	}
	pair, err := loadKeyPair(a.TLSCert, a.TLSKey)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair.get() },
	}, nil
}

// mutualTLS returns the TLS configurations of the worker's gRPC server and of its calls to others; nil for plain.
func (g *GRPC) mutualTLS() (server, client *tls.Config, err error) {
	if g.TLSCert == "" {
		return nil, nil, nil
	}
	pair, err := loadKeyPair(g.TLSCert, g.TLSKey)
	if err != nil {
		return nil, nil, err
	}
	ca, err := os.ReadFile(g.CA)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, nil, fmt.Errorf("certificate: %s has none", g.CA)
	}
	server = &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair.get() },
	}
	client = &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: pool,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair.get() },
	}
	return server, client, nil
}
