package httpx

import (
	"errors"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/admission"
)

// The kinds of accounts that request bodies are charged to. A known sender, a user by an access token or a server by a
// signature, has an account; the others are strangers, who have one for their address and, if they say which server they
// are, one for that name. So what strangers say takes nothing from those whom they name.
const (
	payKnown     = "known"
	payUser      = "user"
	payServer    = "server"
	payStrangers = "strangers"
	payAddress   = "address"
	payClaimed   = "claimed"
)

// IntakeConfig is how request bodies are taken in. The budgets are bytes that have arrived, of requests that are being read
// or answered.
type IntakeConfig struct {
	Known     int64         `yaml:"known" doc:"Bytes of request bodies of users and of verified servers that a process holds."`
	User      int64         `yaml:"user" doc:"Bytes of request bodies of one user."`
	Server    int64         `yaml:"server" doc:"Bytes of request bodies of one verified server."`
	Strangers int64         `yaml:"strangers" doc:"Bytes of request bodies of senders that are not known, or not yet: without an access token, or with a signature that was not verified."`
	Address   int64         `yaml:"address" doc:"Bytes of request bodies of strangers from one IPv4 address or IPv6 /64 network."`
	Claimed   int64         `yaml:"claimed" doc:"Bytes of request bodies of strangers who claim to be one and the same server."`
	Wait      time.Duration `yaml:"wait" doc:"How long the first bytes of a request body may take."`
	Rate      int64         `yaml:"rate" doc:"Bytes in a second that a request body must bring on average after that."`
}

// DefaultIntake suits a small server.
func DefaultIntake() IntakeConfig {
	return IntakeConfig{Known: 256 << 20, User: 24 << 20, Server: 64 << 20, Strangers: 64 << 20, Address: 24 << 20, Claimed: 24 << 20,
		Wait: 20 * time.Second, Rate: 1 << 10}
}

// Validate reports budgets that a single large request would not fit into.
func (c *IntakeConfig) Validate() error {
	if min(c.User, c.Server, c.Address, c.Claimed) < 16<<20 {
		return errors.New("user, server, address and claimed: at least 16 MiB, which a transaction of another server may have")
	}
	if c.Known < max(c.User, c.Server) || c.Strangers < max(c.Address, c.Claimed) {
		return errors.New("known and strangers: at least as much as one of them may have")
	}
	if c.Wait < time.Second || c.Rate < 1 {
		return errors.New("wait: at least a second, and rate at least 1")
	}
	return nil
}

// Intake takes request bodies in, for all routers of a process.
type Intake struct {
	pool *admission.Pool
	wait time.Duration
	rate int64
}

// NewIntake returns an intake with its metrics, if there is a registerer.
func NewIntake(cfg IntakeConfig, reg prometheus.Registerer) *Intake {
	return &Intake{wait: cfg.Wait, rate: cfg.Rate, pool: admission.New(admission.Config{Name: "bodies", Registerer: reg, Limits: map[string]int64{
		payKnown: cfg.Known, payUser: cfg.User, payServer: cfg.Server,
		payStrangers: cfg.Strangers, payAddress: cfg.Address, payClaimed: cfg.Claimed,
	}})}
}

// Held is how many bytes of bodies are held: of those who are known, and of strangers.
func (in *Intake) Held() (known, strangers int64) {
	return in.pool.Held(payKnown), in.pool.Held(payStrangers)
}

// deadline is until when a body that began to be read must have brought more than it has.
func (in *Intake) deadline(began time.Time, arrived int) time.Time {
	return began.Add(in.wait + time.Duration(float64(arrived)/float64(in.rate)*float64(time.Second)))
}

// payers are the accounts that a request's body is charged to.
func (s *state) payers() []admission.Name {
	if s.user != "" {
		return []admission.Name{{Kind: payKnown}, {Kind: payUser, Key: s.user}}
	}
	return []admission.Name{{Kind: payStrangers}, {Kind: payAddress, Key: Network(s.client)}}
}

// KnownUser says which user makes a request: the body, which is not read yet, is charged to the user's account.
func KnownUser(r *http.Request, user string) {
	if s := stateOf(r); s != nil {
		s.user = user
	}
}

// Network is what budgets take for one sender: an IPv4 address, or the /64 network of an IPv6 address, of which whoever has
// one address has all.
func Network(a netip.Addr) string {
	if a.Is6() && !a.Is4In6() {
		if p, err := a.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.Unmap().String()
}
