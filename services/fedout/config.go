package fedout

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"hanse/pkg/fedclient"
	"hanse/pkg/matrix/id"
	"hanse/pkg/netguard"
)

// Config is what an operator may set of the role.
type Config struct {
	Transactions int    `yaml:"transactions" doc:"Transactions on their way at once to servers that have answered soon lately; half as many to others, and four times as many that have waited for an answer for a second. One at most goes to each server."`
	Requests     int    `yaml:"requests" doc:"Requests of other roles to other servers at once, and an eighth of that to one server; beyond it they are refused."`
	KeyFetches   int    `yaml:"key_fetches" doc:"Servers that are asked for their keys at once."`
	QueueEvents  int    `yaml:"queue_events" doc:"Entries that wait in memory for one server; one that is slower is served from the database."`
	QueueBytes   int64  `yaml:"queue_bytes" doc:"Memory for all that waits for other servers, in bytes."`
	Resolver     string `yaml:"resolver" doc:"Host and port of the DNS server that is asked for other servers. Empty: the system's."`
}

// Network is how other servers are reached and trusted: what the operator sets for the whole cluster.
type Network struct {
	// CAFiles have CA certificates that are trusted beside the system's.
	CAFiles []string
	// Allow and Deny are as in netguard.Guard.
	Allow, Deny []netip.Prefix
	// TrustedKeyServers are asked for keys of servers that do not answer.
	TrustedKeyServers []string
	// Client is the rest of the HTTP client's configuration; zero outside of tests.
	Client fedclient.Config
}

// Defaults suit a small server and a large one alike.
func Defaults() Config {
	return Config{Transactions: 256, Requests: 1024, KeyFetches: 64, QueueEvents: 500, QueueBytes: 64 << 20}
}

// Validate reports what is wrong with the configuration.
func (c *Config) Validate() error {
	var errs []error
	for _, f := range []struct {
		name       string
		have, from int64
	}{
		{"transactions", int64(c.Transactions), 1}, {"requests", int64(c.Requests), 1}, {"key_fetches", int64(c.KeyFetches), 1},
		{"queue_events", int64(c.QueueEvents), 50}, {"queue_bytes", c.QueueBytes, 1 << 20},
	} {
		if f.have < f.from {
			errs = append(errs, fmt.Errorf("%s: %d is less than %d", f.name, f.have, f.from))
		}
	}
	if c.Resolver != "" {
		if _, _, err := net.SplitHostPort(c.Resolver); err != nil {
			errs = append(errs, fmt.Errorf("resolver: want host:port, not %q", c.Resolver))
		}
	}
	return errors.Join(errs...)
}

// client builds the configuration of the HTTP client.
func (n *Network) client(c *Config) (fedclient.Config, error) {
	cc := n.Client
	cc.Guard = &netguard.Guard{Allow: n.Allow, Deny: n.Deny}
	if c.Resolver != "" && cc.Resolver == nil {
		cc.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, c.Resolver)
		}}
	}
	for _, name := range n.TrustedKeyServers {
		if _, err := id.ParseServer(name); err != nil {
			return cc, fmt.Errorf("trusted key servers: %w", err)
		}
	}
	if len(n.CAFiles) == 0 {
		return cc, nil
	}
	if cc.RootCAs == nil {
		roots, err := x509.SystemCertPool()
		if err != nil {
			return cc, fmt.Errorf("the system's CA certificates: %w", err)
		}
		cc.RootCAs = roots
	}
	for _, name := range n.CAFiles {
		pem, err := os.ReadFile(name)
		if err != nil {
			return cc, fmt.Errorf("CA certificates: %w", err)
		}
		if !cc.RootCAs.AppendCertsFromPEM(pem) {
			return cc, fmt.Errorf("CA certificates: %s has none", name)
		}
	}
	return cc, nil
}
