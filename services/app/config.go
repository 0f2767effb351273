package app

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/password"
	"hanse/pkg/pg"
	"hanse/pkg/ratelimit"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	appservicerole "hanse/services/appservice"
	"hanse/services/client"
	"hanse/services/fedin"
	"hanse/services/fedout"
	"hanse/services/media"
	"hanse/services/push"
	"hanse/services/room"
	syncrole "hanse/services/sync"
)

// Config is all that an operator sets. The sections of packages and roles are theirs; what is here is what more
// than one of them needs.
type Config struct {
	ServerNames  []string      `yaml:"server_names" doc:"Names that this cluster serves: the part of its users' ids behind the first colon. The first one is used where a request names none."`
	DataDir      string        `yaml:"data_dir" doc:"Directory for what this process keeps itself: the private PostgreSQL, the embedded NATS, its worker id."`
	WorkerID     string        `yaml:"worker_id" doc:"Name of this process among the workers; the same after a restart. Empty: made from the host's name and the gRPC port."`
	DrainDelay   time.Duration `yaml:"drain_delay" doc:"How long a process that ends still takes new requests after /readyz has said no; more than the interval of the load balancer's health checks."`
	DrainTimeout time.Duration `yaml:"drain_timeout" doc:"How long a process that ends waits for requests under way and for other workers to take its partitions over."`

	Listen      Listen             `yaml:"listen"`
	PostgreSQL  pg.Config          `yaml:"postgresql"`
	NATS        NATS               `yaml:"nats"`
	Redis       Redis              `yaml:"redis"`
	Password    password.Config    `yaml:"password"`
	Bodies      httpx.IntakeConfig `yaml:"bodies"`
	Federation  Federation         `yaml:"federation"`
	RateLimits  RateLimits         `yaml:"rate_limits"`
	AppServices AppServices        `yaml:"appservices"`
	Log         Log                `yaml:"log"`
	Tracing     Tracing            `yaml:"tracing"`
	Memory      Memory             `yaml:"memory"`

	Client client.Config   `yaml:"client"`
	Sync   syncrole.Config `yaml:"sync"`
	Room   room.Config     `yaml:"room"`
	Fedout fedout.Config   `yaml:"fedout"`
	Fedin  fedin.Config    `yaml:"fedin"`
	Media  media.Config    `yaml:"media"`
	Push   push.Config     `yaml:"push"`

	Appservice appservicerole.Config `yaml:"appservice"`
}

// Memory is what the roles of a process share.
type Memory struct {
	States int64 `yaml:"states" doc:"Bytes for the states of rooms."`
	Events int64 `yaml:"events" doc:"Bytes for events that clients read."`
	Graphs int64 `yaml:"graphs" doc:"Bytes for the auth graphs of rooms, of which other servers are told the auth chains."`
	// Garbage trades memory for CPU; see package gcpace.
	Garbage int64 `yaml:"garbage" doc:"Bytes that are allocated at least between two garbage collections, however small the heap is. 0: as Go has it. The environment variables GOGC and GOMEMLIMIT work as ever, and GOGC overrides this."`
}

// Listen has the address of each API. An API without an address is not served.
type Listen struct {
	Client         API            `yaml:"client"`
	Federation     API            `yaml:"federation"`
	Monitoring     Monitoring     `yaml:"monitoring"`
	GRPC           GRPC           `yaml:"grpc"`
	TrustedProxies []netip.Prefix `yaml:"trusted_proxies" doc:"Networks of reverse proxies whose X-Forwarded-For is believed. Without it all who come through a proxy share the budgets of its address."`
	Connections    int            `yaml:"connections" doc:"Open connections of each API; at most three quarters of the files that the process may open. Beyond it those without a request under way are closed, the longest idle first."`
	Requests       int            `yaml:"requests" doc:"Requests of each API that are worked on at a time, long polls apart; beyond it they are refused."`
	Polls          int            `yaml:"polls" doc:"Long polls of each API that wait at a time; beyond it they are refused."`
}

// API is one HTTP listener.
type API struct {
	Address string `yaml:"address" doc:"Host and port to listen on."`
	TLSCert string `yaml:"tls_cert" doc:"Certificate chain, PEM. Empty: plain HTTP, for a listener behind a proxy."`
	TLSKey  string `yaml:"tls_key" doc:"Key of the certificate, PEM. Both files are read again when they change."`
}

// Monitoring is the listener of /livez, /readyz and /metrics.
type Monitoring struct {
	Address string `yaml:"address" doc:"Host and port of /livez, /readyz and /metrics; not for the public."`
	Pprof   bool   `yaml:"pprof" doc:"Serve Go's profiles under /debug/pprof too."`
}

// GRPC is how the workers reach each other.
type GRPC struct {
	Address   string `yaml:"address" doc:"Host and port for calls of other workers. Empty: there are none, all roles run in this process."`
	Advertise string `yaml:"advertise" doc:"Host and port where the others reach it. Empty: the address itself."`
	TLSCert   string `yaml:"tls_cert" doc:"Certificate of this worker, PEM. Empty: plain, for private networks only."`
	TLSKey    string `yaml:"tls_key" doc:"Key of the certificate, PEM."`
	CA        string `yaml:"ca" doc:"The CA that signs the workers' certificates, PEM; callers without one of its certificates are refused. The three files are read again when they change."`
	// All workers may share a certificate: pods have no names of their own.
	ServerName string `yaml:"server_name" doc:"Name that the certificates of all workers are valid for. Empty: each is valid for the host that the worker advertises."`
	Permissive bool   `yaml:"permissive" doc:"Take plain connections and wrong certificates too, and count them: for the time in which TLS is switched on or off."`
}

// NATS says where the bus is.
type NATS struct {
	URL      string `yaml:"url" secret:"dsn" doc:"URL of NATS, or several with commas. Empty: a server inside this process, for all roles in one."`
	Replicas int    `yaml:"replicas" doc:"Copies of the membership bucket in a clustered NATS."`
}

// Redis says where the shared cache is.
type Redis struct {
	URL string `yaml:"url" secret:"dsn" doc:"URL of Redis. Empty: a server inside this process, for all roles in one."`
}

// Federation is how other servers are reached and trusted.
type Federation struct {
	CAFiles           []string       `yaml:"ca_files" doc:"CA certificates, PEM, trusted for other servers in addition to the system's."`
	Allow             []netip.Prefix `yaml:"allow" doc:"Networks that may be connected to although they are private."`
	Deny              []netip.Prefix `yaml:"deny" doc:"Networks that are never connected to; private ones are refused anyway."`
	TrustedKeyServers []string       `yaml:"trusted_key_servers" doc:"Servers that are asked for the keys of others that do not answer."`
}

// RateLimits bounds what one user or address may do.
type RateLimits struct {
	Enabled bool                       `yaml:"enabled" doc:"Off: no limits, for load tests and private clusters."`
	Keys    int                        `yaml:"keys" doc:"Users and addresses that a worker remembers."`
	Limits  map[string]ratelimit.Limit `yaml:"limits" doc:"Budgets by kind of action: how many in a second in the long run, and how many at once."`
}

// AppServices are bridges and bots.
type AppServices struct {
	Files []string `yaml:"files" doc:"Registration files of application services, YAML. They are read again when they change."`
}

// Log is what is written to standard error.
type Log struct {
	Level  slog.Level `yaml:"level" doc:"debug, info, warn or error."`
	Format string     `yaml:"format" doc:"json or text."`
}

// Tracing is where spans go.
type Tracing struct {
	Endpoint string  `yaml:"endpoint" doc:"OTLP gRPC endpoint, as http://collector:4317. Empty: no traces."`
	Ratio    float64 `yaml:"ratio" doc:"Share of the requests that are traced, 0 to 1, unless the caller has decided."`
}

// Defaults returns what 'make run' works with.
func Defaults() *Config {
	return &Config{
		ServerNames:  []string{"localhost:8448"},
		DataDir:      "data",
		DrainDelay:   time.Second,
		DrainTimeout: 20 * time.Second,
		Listen: Listen{
			Client:      API{Address: "127.0.0.1:8008"},
			Federation:  API{Address: "127.0.0.1:8448"},
			Monitoring:  Monitoring{Address: "127.0.0.1:9080"},
			Connections: 200_000, Requests: 4096, Polls: 100_000,
		},
		PostgreSQL: pg.Defaults(),
		NATS:       NATS{Replicas: 1},
		Password:   password.Defaults(),
		Bodies:     httpx.DefaultIntake(),
		RateLimits: RateLimits{Enabled: true, Keys: 100_000, Limits: defaultLimits()},
		Log:        Log{Format: "json"},
		Tracing:    Tracing{Ratio: 0.01},
		Memory:     Memory{States: state.DefaultConfig().Cache, Events: roomdb.DefaultConfig().EventCache, Graphs: roomdb.DefaultConfig().GraphCache, Garbage: 64 << 20},
		Client:     client.Defaults(),
		Sync:       syncrole.Defaults(),
		Room:       room.Defaults(),
		Fedout:     fedout.Defaults(),
		Fedin:      fedin.Defaults(),
		Media:      media.Defaults(),
		Push:       push.Defaults(),
		Appservice: appservicerole.Defaults(),
	}
}

// defaultLimits are generous to people and clients, and strict to who guesses passwords.
func defaultLimits() map[string]ratelimit.Limit {
	return map[string]ratelimit.Limit{
		"request":     {PerSecond: 50, Burst: 500}, // of a user, of any kind
		"login":       {PerSecond: 0.5, Burst: 20}, // of an address
		"login_user":  {PerSecond: 0.2, Burst: 10}, // of an account
		"register":    {PerSecond: 0.2, Burst: 10},
		"profile":     {PerSecond: 1, Burst: 20},
		"presence":    {PerSecond: 2, Burst: 20},
		"search":      {PerSecond: 2, Burst: 20},
		"report":      {PerSecond: 0.2, Burst: 10},
		"to_device":   {PerSecond: 50, Burst: 500},
		"send":        {PerSecond: 10, Burst: 200}, // events, state too
		"redact":      {PerSecond: 2, Burst: 50},
		"join":        {PerSecond: 1, Burst: 50},
		"invite":      {PerSecond: 1, Burst: 50},
		"invite_user": {PerSecond: 0.1, Burst: 50}, // of a user who is invited, from here and elsewhere
		"invite_from": {PerSecond: 2, Burst: 200},  // of another server
		"create_room": {PerSecond: 0.5, Burst: 20},
		"preview":     {PerSecond: 2, Burst: 50},
		"upload":      {PerSecond: 2, Burst: 100}, // files, and ids for them
	}
}

// Validate reports what is wrong with the values that no package of their own looks at.
func (c *Config) Validate() error {
	var errs []error
	if len(c.ServerNames) == 0 {
		errs = append(errs, errors.New("server_names: at least one is needed"))
	}
	for _, name := range c.ServerNames {
		if !validServerName(name) {
			errs = append(errs, fmt.Errorf("server_names: %q is not a server name", name))
		}
	}
	if c.DataDir == "" {
		errs = append(errs, errors.New("data_dir: is empty"))
	}
	if c.DrainDelay < 0 || c.DrainTimeout <= 0 {
		errs = append(errs, errors.New("drain_timeout: must be positive"))
	}
	return errors.Join(errs...)
}

// serverName is the grammar of appendices, section "Server name", as far as a regular expression goes.
var serverName = regexp.MustCompile(`^([0-9A-Za-z.-]{1,230}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?$`)

func validServerName(s string) bool { return serverName.MatchString(s) }

// Validate reports addresses that nobody can listen on.
func (l *Listen) Validate() error {
	var errs []error
	for name, addr := range map[string]string{
		"client.address": l.Client.Address, "federation.address": l.Federation.Address,
		"monitoring.address": l.Monitoring.Address, "grpc.address": l.GRPC.Address, "grpc.advertise": l.GRPC.Advertise,
	} {
		if addr == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(addr); err != nil {
			errs = append(errs, fmt.Errorf("%s: want host:port, not %q", name, addr))
		}
	}
	if min(l.Connections, l.Requests, l.Polls) < 1 {
		errs = append(errs, errors.New("connections, requests and polls: must be positive"))
	}
	return errors.Join(errs...)
}

// Validate reports limits that nobody could keep to.
func (r *RateLimits) Validate() error {
	var errs []error
	if r.Keys < 1 {
		errs = append(errs, errors.New("keys: must be positive"))
	}
	for kind, l := range r.Limits {
		if l.PerSecond <= 0 || l.Burst < 1 {
			errs = append(errs, fmt.Errorf("limits: %s: per_second must be positive and burst at least 1", kind))
		}
	}
	return errors.Join(errs...)
}

// Validate reports budgets that are too small to work with.
func (m *Memory) Validate() error {
	if min(m.States, m.Events, m.Graphs) < 1<<20 {
		return errors.New("states: at least 1 MiB, and events and graphs too")
	}
	return nil
}

// Validate reports files that are not there.
func (a *API) Validate() error {
	if (a.TLSCert == "") != (a.TLSKey == "") {
		return errors.New("tls_cert: certificate and key go together")
	}
	return errors.Join(readable("tls_cert", a.TLSCert), readable("tls_key", a.TLSKey))
}

// Validate reports TLS that would protect one side only.
func (g *GRPC) Validate() error {
	set := 0
	for _, file := range []string{g.TLSCert, g.TLSKey, g.CA} {
		if file != "" {
			set++
		}
	}
	if set != 0 && set != 3 {
		return errors.New("tls_cert: certificate, key and CA go together")
	}
	if g.TLSCert == "" && (g.Permissive || g.ServerName != "") {
		return errors.New("server_name and permissive need tls_cert")
	}
	return errors.Join(readable("tls_cert", g.TLSCert), readable("tls_key", g.TLSKey), readable("ca", g.CA))
}

// Validate reports CA files that are not there.
func (f *Federation) Validate() error {
	var errs []error
	for _, file := range f.CAFiles {
		errs = append(errs, readable("ca_files", file))
	}
	for _, name := range f.TrustedKeyServers {
		if !validServerName(name) {
			errs = append(errs, fmt.Errorf("trusted_key_servers: %q is not a server name", name))
		}
	}
	return errors.Join(errs...)
}

// Validate reports URLs of another kind.
func (n *NATS) Validate() error {
	for one := range strings.SplitSeq(n.URL, ",") {
		if u, err := url.Parse(strings.TrimSpace(one)); n.URL != "" && (err != nil || u.Host == "") {
			return errors.New("url: want nats://host:port")
		}
	}
	if n.Replicas < 1 || n.Replicas > 5 {
		return errors.New("replicas: want 1 to 5")
	}
	return nil
}

// Validate reports registration files that are not there.
func (a *AppServices) Validate() error {
	var errs []error
	for _, file := range a.Files {
		errs = append(errs, readable("files", file))
	}
	return errors.Join(errs...)
}

// Validate reports an unknown format.
func (l *Log) Validate() error {
	if l.Format != "json" && l.Format != "text" {
		return fmt.Errorf("format: want json or text, not %q", l.Format)
	}
	return nil
}

// Validate reports a ratio that is none.
func (t *Tracing) Validate() error {
	if t.Ratio < 0 || t.Ratio > 1 {
		return errors.New("ratio: want 0 to 1")
	}
	return nil
}

func readable(key, file string) error {
	if file == "" {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return f.Close()
}

// names returns the configured server names.
func (c *Config) names() []id.Server {
	names := make([]id.Server, len(c.ServerNames))
	for i, name := range c.ServerNames {
		names[i] = id.Server(name)
	}
	return names
}

// workerID returns the configured id, or one that the same process gets again after a restart.
func (c *Config) workerID() string {
	if c.WorkerID != "" {
		return c.WorkerID
	}
	host, err := os.Hostname()
	if err != nil {
		host = "hanse"
	}
	if _, port, err := net.SplitHostPort(c.Listen.GRPC.Address); err == nil {
		host += "-" + port
	}
	return strings.Trim(notInID.ReplaceAllString(host, "-"), ".-")
}

var notInID = regexp.MustCompile(`[^A-Za-z0-9_-]`)

func (c *Config) postgresDir() string { return filepath.Join(c.DataDir, "postgresql") }

func (c *Config) natsDir() string { return filepath.Join(c.DataDir, "nats") }
