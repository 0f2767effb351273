package fedout

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"hanse/pkg/fedclient"
	"hanse/pkg/matrix/id"
	"hanse/pkg/netguard"
)

// Config is what an operator may set of the role. What the whole cluster shares (CAs, networks, key servers) comes
// from the section federation.
type Config struct {
	Transactions int   `yaml:"transactions" doc:"Transactions on their way to other servers at once; one at most goes to each."`
	Requests     int   `yaml:"requests" doc:"Requests of other roles to other servers at once; beyond it they are refused."`
	KeyFetches   int   `yaml:"key_fetches" doc:"Servers that are asked for their keys at once."`
	QueueEvents  int   `yaml:"queue_events" doc:"Entries that wait in memory for one server; one that is slower is served from the database."`
	QueueBytes   int64 `yaml:"queue_bytes" doc:"Memory for all that waits for other servers, in bytes."`

	CAFiles           []string       `yaml:"-"`
	Allow, Deny       []netip.Prefix `yaml:"-"`
	TrustedKeyServers []string       `yaml:"-"`
	// Client is for tests: it replaces parts of the HTTP client's configuration.
	Client fedclient.Config `yaml:"-"`
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
	for _, s := range c.TrustedKeyServers {
		if _, err := id.ParseServer(s); err != nil {
			errs = append(errs, fmt.Errorf("trusted_key_servers: %w", err))
		}
	}
	return errors.Join(errs...)
}

// client builds the configuration of the HTTP client.
func (c *Config) client() (fedclient.Config, error) {
	cc := c.Client
	cc.Guard = &netguard.Guard{Allow: c.Allow, Deny: c.Deny}
	if len(c.CAFiles) == 0 {
		return cc, nil
	}
	if cc.RootCAs == nil {
		roots, err := x509.SystemCertPool()
		if err != nil {
			return cc, fmt.Errorf("the system's CA certificates: %w", err)
		}
		cc.RootCAs = roots
	}
	for _, name := range c.CAFiles {
		pem, err := os.ReadFile(name)
		if err != nil {
			return cc, fmt.Errorf("ca_files: %w", err)
		}
		if !cc.RootCAs.AppendCertsFromPEM(pem) {
			return cc, fmt.Errorf("ca_files: %s has no certificate", name)
		}
	}
	return cc, nil
}
