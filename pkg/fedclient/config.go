package fedclient

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/netguard"
)

// Config is what a Client needs. Zero values are replaced by defaults.
type Config struct {
	// Guard says which addresses may be connected to.
	Guard *netguard.Guard
	// RootCAs are trusted; nil: the system's.
	RootCAs *x509.CertPool
	// Resolver asks DNS; nil: the system's.
	Resolver *net.Resolver
	// WellKnownPort is where .well-known files are fetched (443).
	WellKnownPort uint16
	// UserAgent names us.
	UserAgent string
	// ConnsPerHost bounds the connections to one server (8), IdleConns the idle ones to all (512).
	ConnsPerHost, IdleConns int
	// Routes bounds the names whose routes are remembered (20,000).
	Routes int
	// DialTimeout bounds the way to an open TLS connection, for each address that is tried (10 s).
	DialTimeout time.Duration
	Log         *slog.Logger
	Registerer  prometheus.Registerer

	sessions tls.ClientSessionCache
}

func (c *Config) setDefaults() {
	if c.Guard == nil {
		c.Guard = new(netguard.Guard)
	}
	if c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
	if c.WellKnownPort == 0 {
		c.WellKnownPort = 443
	}
	if c.UserAgent == "" {
		c.UserAgent = "Hanse"
	}
	if c.ConnsPerHost == 0 {
		c.ConnsPerHost = 8
	}
	if c.IdleConns == 0 {
		c.IdleConns = 512
	}
	if c.Routes == 0 {
		c.Routes = 20_000
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = 10 * time.Second
	}
	c.sessions = tls.NewLRUClientSessionCache(2000)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

func (c *Config) tls(serverName string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.RootCAs, ServerName: serverName,
		NextProtos: []string{"h2", "http/1.1"}, ClientSessionCache: c.sessions}
}
