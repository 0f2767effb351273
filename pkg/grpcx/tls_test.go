package grpcx

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

const workersName = "workers.test"

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: t.Name()}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) sign(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// identity is what a worker is configured with.
type identity struct {
	cert tls.Certificate
	cas  []*authority
}

func (i *identity) tls(permissive bool) *TLS {
	var who atomic.Pointer[identity]
	who.Store(i)
	return changing(&who, permissive)
}

// changing is TLS whose files change.
func changing(who *atomic.Pointer[identity], permissive bool) *TLS {
	pool := func() *x509.CertPool {
		p := x509.NewCertPool()
		for _, a := range who.Load().cas {
			p.AddCert(a.cert)
		}
		return p
	}
	return &TLS{Permissive: permissive,
		Server: func() *tls.Config {
			return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{who.Load().cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool()}
		},
		Client: func() *tls.Config {
			return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{who.Load().cert}, RootCAs: pool(), ServerName: workersName}
		},
	}
}

// TLS is switched on and off in steps, and each worker of a step works with each of the step before: without TLS, permissive,
// with TLS. A worker with a wrong certificate works with those that are permissive only.
func TestTLSInSteps(t *testing.T) {
	ca := newAuthority(t)
	right := &identity{ca.sign(t, workersName), []*authority{ca}}
	other := &identity{ca.sign(t, "other.test"), []*authority{ca}}
	foreign := &identity{newAuthority(t).sign(t, workersName), []*authority{ca}}
	workers := map[string]*TLS{"plain": nil, "permissive": right.tls(true), "strict": right.tls(false),
		"strict, other name": other.tls(false), "permissive, other name": other.tls(true), "strict, other CA": foreign.tls(false), "permissive, other CA": foreign.tls(true)}
	// Who reaches whom, and what the caller and the called one count.
	for _, c := range []struct {
		from, to       string
		client, server string // what is lacking, "" nothing, "x": not reached
	}{
		{"plain", "plain", "", ""},
		{"plain", "permissive", "", "tls"},
		{"permissive", "plain", "tls", ""},
		{"permissive", "permissive", "", ""},
		{"permissive", "strict", "", ""},
		{"strict", "permissive", "", ""},
		{"strict", "strict", "", ""},
		{"plain", "strict", "x", "x"},
		{"strict", "plain", "x", "x"},
		{"strict", "strict, other name", "x", "x"},
		{"strict, other name", "strict", "", ""}, // a caller's name is nobody's business
		{"strict, other CA", "strict", "x", "x"},
		{"strict", "strict, other CA", "x", "x"},
		{"permissive", "permissive, other name", "certificate", "tls"},
		{"permissive, other CA", "permissive", "", "certificate"},
		{"permissive", "permissive, other CA", "certificate", "tls"},
	} {
		t.Run(c.from+" calls "+c.to, func(t *testing.T) {
			reg := prometheus.NewRegistry()
			s, _ := start(t, Config{Listen: "127.0.0.1:0", TLS: workers[c.to], Registerer: reg})
			conns := NewConns(Config{TLS: workers[c.from], Registerer: reg}, nil)
			defer conns.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			err := conns.Reach(ctx, s.Addr())
			if (err != nil) != (c.client == "x") {
				t.Fatalf("reached: %v", err)
			}
			if err != nil {
				return
			}
			counted := newUnprotected(Config{Registerer: reg}, "").n
			want := 0
			for side, lacks := range map[string]string{"client": c.client, "server": c.server} {
				if lacks == "" {
					continue
				}
				want++
				if n := testutil.ToFloat64(counted.WithLabelValues(side, lacks)); n != 1 {
					t.Errorf("%s lacks %s: counted %v", side, lacks, n)
				}
			}
			if n := testutil.CollectAndCount(counted); n != want {
				t.Errorf("%d kinds of lapses, want %d", n, want)
			}
		})
	}
}

// The error of a call that cannot be made says why.
func TestReachSaysWhy(t *testing.T) {
	ca := newAuthority(t)
	s, _ := start(t, Config{Listen: "127.0.0.1:0", TLS: (&identity{ca.sign(t, "127.0.0.2"), []*authority{ca}}).tls(false)})
	conns := NewConns(Config{TLS: (&identity{ca.sign(t, workersName), []*authority{ca}}).tls(false)}, nil)
	defer conns.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := conns.Reach(ctx, s.Addr()); err == nil || !strings.Contains(err.Error(), "certificate is valid for 127.0.0.2, not "+workersName) {
		t.Errorf("%v", err)
	}
}

// A CA is replaced while both sides run: first both are trusted, then the certificates change, then the old CA goes.
func TestCAIsReplaced(t *testing.T) {
	first, second := newAuthority(t), newAuthority(t)
	both := []*authority{first, second}
	var server, client atomic.Pointer[identity]
	server.Store(&identity{first.sign(t, workersName), []*authority{first}})
	client.Store(server.Load())
	s, _ := start(t, Config{Listen: "127.0.0.1:0", TLS: changing(&server, false)})
	reach := func() error {
		conns := NewConns(Config{TLS: changing(&client, false)}, nil) // a new connection each time
		defer conns.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		return conns.Reach(ctx, s.Addr())
	}
	steps := []struct {
		of *atomic.Pointer[identity]
		to *identity
	}{
		{&server, &identity{server.Load().cert, both}}, {&client, &identity{client.Load().cert, both}},
		{&client, &identity{second.sign(t, workersName), both}}, {&server, &identity{second.sign(t, workersName), both}},
	}
	for i, step := range steps {
		step.of.Store(step.to)
		if err := reach(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	server.Store(&identity{server.Load().cert, []*authority{second}})
	if err := reach(); err != nil {
		t.Fatalf("without the old CA: %v", err)
	}
	client.Store(&identity{first.sign(t, workersName), both})
	if err := reach(); err == nil {
		t.Error("a caller of the old CA is let in")
	}
}
