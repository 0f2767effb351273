package app

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"hanse/pkg/partition"
	"hanse/pkg/retries"
)

// around is a cluster as a worker sees it: who is there, and who answers.
type around struct {
	mu      sync.Mutex
	members []partition.Member
	silent  map[string]bool
	changed chan struct{}
	asked   int
}

func (a *around) All() []partition.Member { a.mu.Lock(); defer a.mu.Unlock(); return a.members }
func (a *around) Self() partition.Member  { return partition.Member{ID: "self"} }
func (a *around) Changed() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.changed
}
func (a *around) Known() bool { return true }

func (a *around) Reach(_ context.Context, addr string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	if a.silent[addr] {
		return errors.New("certificate is valid for nobody")
	}
	return nil
}

func (a *around) set(silent bool, addrs ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.members, a.silent = nil, map[string]bool{}
	for _, addr := range addrs {
		a.members = append(a.members, partition.Member{ID: addr, Addr: addr, State: partition.Ready})
		a.silent[addr] = silent
	}
	close(a.changed)
	a.changed = make(chan struct{})
}

func newMesh(a *around) *mesh {
	return &mesh{members: a, conns: a, log: retries.Log{To: slog.New(slog.DiscardHandler)}, lost: prometheus.NewGauge(prometheus.GaugeOpts{Name: "x"})}
}

// A worker that starts waits until one of the others answers; the first one of a cluster does not wait.
func TestMeetsOthersBeforeReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &around{changed: make(chan struct{})}
		m := newMesh(a)
		if err := m.meet(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.set(true, "a:1", "b:1", "c:1", "d:1")
		met := make(chan error, 1)
		go func() { met <- m.meet(t.Context()) }()
		time.Sleep(time.Minute)
		select {
		case err := <-met:
			t.Fatalf("ready without anybody: %v", err)
		default:
		}
		a.mu.Lock()
		if a.asked > 3*70 {
			t.Errorf("asked %d times in a minute", a.asked)
		}
		a.mu.Unlock()
		a.set(false, "a:1")
		if err := <-met; err != nil {
			t.Fatal(err)
		}
	})
}

// A worker that reaches nobody for a while is not ready until it reaches somebody. It costs the others little.
func TestCutOffWorkerIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &around{changed: make(chan struct{})}
		a.set(false, "a:1", "b:1", "c:1", "d:1", "memory", "e:1")
		m := newMesh(a)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		for _, step := range []struct {
			do   func()
			wait time.Duration
			cut  bool
			lost float64
		}{
			{func() {}, time.Minute, false, 0},
			{func() { a.set(true, "a:1", "b:1") }, 15 * time.Second, false, 2},
			{func() {}, time.Minute, true, 2},
			{func() { a.set(false, "a:1", "b:1") }, 15 * time.Second, false, 0},
			{func() { a.set(true, "a:1"); a.set(false) }, time.Minute, false, 0}, // nobody else is there
		} {
			step.do()
			time.Sleep(step.wait)
			synctest.Wait()
			if m.cut.Load() != step.cut || testutil.ToFloat64(m.lost) != step.lost {
				t.Errorf("cut %t, lost %v: want %+v", m.cut.Load(), testutil.ToFloat64(m.lost), step)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

// writeKeyPair writes a certificate for a name that signs itself, as tls.crt, tls.key and ca.crt.
func writeKeyPair(t *testing.T, dir, name string, usage ...x509.ExtKeyUsage) *GRPC {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: usage,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	g := &GRPC{TLSCert: filepath.Join(dir, "tls.crt"), TLSKey: filepath.Join(dir, "tls.key"), CA: filepath.Join(dir, "ca.crt")}
	for file, block := range map[string]*pem.Block{g.TLSCert: {Type: "CERTIFICATE", Bytes: cert}, g.CA: {Type: "CERTIFICATE", Bytes: cert},
		g.TLSKey: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

// A certificate that no other worker would accept keeps the worker from starting, with an error that says what to do.
func TestOwnCertificateIsChecked(t *testing.T) {
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, c := range []struct {
		name, advertise string
		usage           []x509.ExtKeyUsage
		says            string
	}{
		{"workers.test", "10.0.0.1:9090", both, ""},
		{"", "worker-1:9090", both, ""},
		{"", "10.0.0.1:9090", both, "set listen.grpc.server_name"},
		{"other.test", "worker-1:9090", both, "set listen.grpc.server_name"},
		{"workers.test", "worker-1:9090", both[:1], "incompatible key usage"},
		{"workers.test", "worker-1:9090", both[1:], "incompatible key usage"},
	} {
		certName := "workers.test"
		if c.name == "" {
			certName = "worker-1"
		}
		g := writeKeyPair(t, t.TempDir(), certName, c.usage...)
		g.ServerName, g.Advertise = c.name, c.advertise
		_, err := g.mutualTLS(slog.New(slog.DiscardHandler))
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v", c, err)
		}
		g.Permissive = true
		if _, err := g.mutualTLS(slog.New(slog.DiscardHandler)); err != nil {
			t.Errorf("permissive, %+v: %v", c, err)
		}
	}
}

// A certificate and its CA are read again when their files change, and a half-written one changes nothing.
func TestCertificateIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	g := writeKeyPair(t, dir, "workers.test", x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth)
	pair, err := readKeyPair(g.TLSCert, g.TLSKey)
	if err != nil {
		t.Fatal(err)
	}
	cas, err := readCAs(g.CA)
	if err != nil {
		t.Fatal(err)
	}
	first, firstCAs := pair.get(), cas.get()
	look := func(at time.Time) (*tls.Certificate, *x509.CertPool) {
		for _, file := range []string{g.TLSCert, g.TLSKey, g.CA} {
			if err := os.Chtimes(file, at, at); err != nil {
				t.Fatal(err)
			}
		}
		pair.checked, cas.checked = time.Time{}, time.Time{}
		return pair.get(), cas.get()
	}
	if err := os.WriteFile(g.TLSCert, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, pool := look(time.Now().Add(time.Minute)); got != first || !pool.Equal(firstCAs) {
		t.Error("half a certificate is used")
	}
	writeKeyPair(t, dir, "workers.test", x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth)
	if got, pool := look(time.Now().Add(2 * time.Minute)); got == first || pool.Equal(firstCAs) {
		t.Error("the new certificate or CA is not used")
	}
}
