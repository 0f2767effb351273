package fedclient

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"hanse/pkg/netguard"
)

// network is an internet on loopback: a DNS server, a CA, and HTTPS servers.
type network struct {
	t     *testing.T
	roots *x509.CertPool
	ca    *x509.Certificate
	caKey *ecdsa.PrivateKey
	dns   string

	mu      sync.Mutex
	records map[string][]string // "A name." → records
	failing map[string]bool     // questions that are answered by SERVFAIL
	asked   map[string]int
	serial  int64
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{t: t, roots: x509.NewCertPool(), records: map[string][]string{}, failing: map[string]bool{}, asked: map[string]int{}, serial: 1}
	n.makeCA()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(n.answer)}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.ActivateAndServe() }()
	t.Cleanup(func() { _ = srv.Shutdown(); pc.Close(); <-done })
	n.dns = pc.LocalAddr().String()
	return n
}

func (n *network) makeCA() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		n.t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		n.t.Fatal(err)
	}
	if n.ca, err = x509.ParseCertificate(der); err != nil {
		n.t.Fatal(err)
	}
	n.caKey = key
	n.roots.AddCert(n.ca)
}

// cert makes a certificate for names and addresses.
func (n *network) cert(names ...string) tls.Certificate {
	n.mu.Lock()
	n.serial++
	serial := n.serial
	n.mu.Unlock()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, name)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		n.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, n.ca, &key.PublicKey, n.caKey)
	if err != nil {
		n.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (n *network) answer(w dns.ResponseWriter, q *dns.Msg) {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(q)
	name := strings.ToLower(q.Question[0].Name)
	key := dns.TypeToString[q.Question[0].Qtype] + " " + name
	n.asked[key]++
	if n.failing[key] {
		m.Rcode = dns.RcodeServerFailure
		_ = w.WriteMsg(m)
		return
	}
	for _, r := range n.records[key] {
		rr, err := dns.NewRR(name + " 60 IN " + r)
		if err != nil {
			n.t.Error(err)
			continue
		}
		m.Answer = append(m.Answer, rr)
	}
	if m.Answer == nil {
		known := false
		for k := range n.records {
			_, owner, _ := strings.Cut(k, " ")
			known = known || owner == name
		}
		if !known {
			m.Rcode = dns.RcodeNameError
		}
	}
	_ = w.WriteMsg(m)
}

// set defines the records of a name: set("a.test", "A", "127.0.0.2").
func (n *network) set(name, typ string, values ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := typ + " " + name + "."
	n.records[key] = nil
	for _, v := range values {
		n.records[key] = append(n.records[key], typ+" "+v)
	}
}

// serve starts an HTTPS server on an address (host:port, port 0 for any) and returns its port.
func (n *network) serve(addr string, handler http.HandlerFunc, certNames ...string) string {
	n.t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		n.t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(handler)
	srv.Listener.Close()
	srv.Listener, srv.EnableHTTP2 = l, true
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{n.cert(certNames...)}}
	srv.StartTLS()
	n.t.Cleanup(srv.Close)
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		n.t.Fatal(err)
	}
	return port
}

// client returns a client that lives in the network.
func (n *network) client(wellKnownPort string, change ...func(*Config)) *Client {
	cfg := Config{
		Guard:   &netguard.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}},
		RootCAs: n.roots, DialTimeout: 30 * time.Second, Resolver: n.resolver(),
	}
	if port, err := strconv.ParseUint(wellKnownPort, 10, 16); err == nil {
		cfg.WellKnownPort = uint16(port)
	}
	for _, f := range change {
		f(&cfg)
	}
	c := New(cfg)
	n.t.Cleanup(c.CloseIdle)
	return c
}

func (n *network) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, n.dns)
	}}
}

func (n *network) count(question string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked[question]
}
