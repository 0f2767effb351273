package config_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hanse/pkg/config"
)

type listen struct {
	Address string `doc:"Host and port."`
	TLSCert string
}

func (l *listen) Validate() error {
	if l.Address == "" {
		return errors.New("address: is empty")
	}
	return nil
}

type limits struct {
	Rate     float64
	MaxBurst int
	Off      bool
}

type root struct {
	ServerNames []string `yaml:"server_names"`
	Timeout     time.Duration
	Listen      struct{ Client, Federation listen }
	Secret      string   `secret:"true"`
	Shards      []string `secret:"dsn"`
	Allow       []netip.Prefix
	Limits      map[string]limits
	Count       uint16
	Optional    *bool
}

func defaults() *root {
	r := &root{Timeout: 5 * time.Second, Limits: map[string]limits{"login": {Rate: 1}, "send": {Rate: 3}}}
	r.Listen.Client.Address, r.Listen.Federation.Address = ":1", ":2"
	return r
}

func load(t *testing.T, yaml string, env, set []string) (*root, *config.Report, error) {
	t.Helper()
	src := config.Sources{Env: env, Set: set, Reserved: []string{"HANSE_CONFIG"}}
	if yaml != "" {
		src.File = filepath.Join(t.TempDir(), "hanse.yaml")
		if err := os.WriteFile(src.File, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := defaults()
	report, err := config.Load(r, src)
	return r, report, err
}

func TestSourcesInOrder(t *testing.T) {
	r, report, err := load(t, `
# comment
server_names: [a.example, b.example]
timeout: 1m
listen:
  client:
    address: "127.0.0.1:80"
    tls_cert: x.pem
allow:
  - 10.0.0.0/8
limits:
  login: {off: true}
count: 7
secret: 12345
optional: true
`, []string{"HANSE_TIMEOUT=2m", "HANSE_CONFIG=x", "HANSE_PORT=tcp://1", "HANSE_LISTEN_CLIENT_TLS_CERT=env.pem", "OTHER=1"},
		[]string{"timeout=3m", "shards=postgres://u:pw@h/db, host=/x password=pw user=u"})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.ServerNames) != 2 || r.Timeout != 3*time.Minute || r.Listen.Client.Address != "127.0.0.1:80" ||
		r.Listen.Client.TLSCert != "env.pem" || r.Listen.Federation.Address != ":2" || r.Secret != "12345" ||
		r.Allow[0] != netip.MustParsePrefix("10.0.0.0/8") || !r.Limits["login"].Off || r.Limits["login"].Rate != 1 || r.Limits["send"].Rate != 3 ||
		r.Count != 7 || len(r.Shards) != 2 || r.Optional == nil || !*r.Optional {
		t.Errorf("loaded %+v", r)
	}
	for key, want := range map[string]string{
		"timeout":                   "command line",
		"listen.client.tls_cert":    "environment HANSE_LISTEN_CLIENT_TLS_CERT",
		"listen.federation.address": "default",
	} {
		if got := report.Source(key); got != want {
			t.Errorf("source of %s: %q, want %q", key, got, want)
		}
	}
	if got := report.Source("listen.client.address"); !strings.HasSuffix(got, "hanse.yaml:7") {
		t.Errorf("source of listen.client.address: %q", got)
	}
	if len(report.Warnings) != 1 || !strings.Contains(report.Warnings[0], "HANSE_PORT") {
		t.Errorf("warnings: %q", report.Warnings)
	}
	var out strings.Builder
	if err := report.Print(&out); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + out.String())
	for _, leak := range []string{"12345", "pw"} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("printed configuration shows %q", leak)
		}
	}
	for _, want := range []string{`    address: "127.0.0.1:80"`, "# Host and port.", "timeout: 3m0s  # command line", "secret: ********"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("printed configuration lacks %q", want)
		}
	}
}

func TestWhatIsPrintedLoads(t *testing.T) {
	_, report, err := load(t, "server_names: [a.example]\nlimits: {x: {rate: 2, max_burst: 9}}\nallow: [::1/128]\n", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := report.Print(&out); err != nil {
		t.Fatal(err)
	}
	again, _, err := load(t, out.String(), nil, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if again.ServerNames[0] != "a.example" || again.Limits["x"].MaxBurst != 9 || again.Timeout != 5*time.Second {
		t.Errorf("loaded %+v", again)
	}
}

func TestStrictness(t *testing.T) {
	for name, tc := range map[string]struct {
		yaml string
		env  []string
		set  []string
		want string
	}{
		"unknown key":             {yaml: "timeout: 1s\ntimeuot: 2s\n", want: "hanse.yaml:2: timeuot: no such key"},
		"unknown nested key":      {yaml: "listen:\n  client:\n    adr: x\n", want: "hanse.yaml:3: listen.client.adr: no such key"},
		"unknown key in a map":    {yaml: "limits:\n  a:\n    rat: 1\n", want: "hanse.yaml:3: limits.a.rat: no such key"},
		"key twice":               {yaml: "count: 1\ncount: 2\n", want: "hanse.yaml"},
		"wrong type":              {yaml: "count: many\n", want: "hanse.yaml:1: count: want a whole number"},
		"too large":               {yaml: "count: 65536\n", want: "hanse.yaml:1: count: want a whole number"},
		"duration without unit":   {yaml: "timeout: 5\n", want: "want a duration"},
		"scalar for a section":    {yaml: "listen: 5\n", want: "hanse.yaml:1: listen: want a mapping"},
		"list for a scalar":       {yaml: "secret: [a]\n", want: "secret: want a string"},
		"scalar for a list":       {yaml: "server_names: a\n", want: "server_names: want a list"},
		"bad text":                {yaml: "allow: [a]\n", want: "hanse.yaml:1: allow[0]"},
		"second document":         {yaml: "count: 1\n---\ncount: 2\n", want: "hanse.yaml:3: a second document"},
		"alias":                   {yaml: "secret: &a x\n", want: "not supported"},
		"not YAML":                {yaml: "a: [\n", want: "hanse.yaml"},
		"unknown setting":         {set: []string{"x=1"}, want: "setting x: no such key"},
		"setting without value":   {set: []string{"count"}, want: "want key=value"},
		"bad environment value":   {env: []string{"HANSE_COUNT=-1"}, want: "environment variable HANSE_COUNT"},
		"invalid, with its place": {yaml: "listen:\n  client: {address: ''}\n", want: "hanse.yaml:2: listen.client.address: is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := load(t, tc.yaml, tc.env, tc.set)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("err = %v, want %q in it", err, tc.want)
			}
		})
	}
}

func TestMaskDSN(t *testing.T) {
	for in, want := range map[string]string{
		"postgres://u:pw@h:1/db":             "postgres://u:********@h:1/db",
		"nats://h:4222":                      "nats://h:4222",
		"host=h password='a b' dbname=x":     "host=h password=******** dbname=x",
		"postgres://u@h/db?password=x":       "postgres://u@h/db?password=********",
		"redis://:pw@h:6379/0":               "redis://:********@h:6379/0",
		"postgres://u:p%zz@h":                "********",
		"host=h user=u password=pw port=544": "host=h user=u password=******** port=544",
	} {
		if got := config.MaskDSN(in); got != want {
			t.Errorf("MaskDSN(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("timeout: 1s\nlisten: {client: {address: x}}\n")
	f.Add("limits: {a: {rate: 1}}\nallow: [1.2.3.4/5]")
	f.Add("- a\n- b")
	f.Fuzz(func(t *testing.T, yaml string) {
		_, report, err := load(t, yaml, nil, nil)
		if err == nil && report == nil {
			t.Fatal("neither report nor error")
		}
	})
}

// What scripts read: one value, without quotes, and no secrets.
func TestValue(t *testing.T) {
	_, report, err := load(t, "server_names: [a.example, \"b.example:1\"]\nsecret: hush\ntimeout: 1m\n", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"server_names": "a.example\nb.example:1", "secret": "********", "timeout": "1m0s", "listen.client.address": ":1",
	} {
		if got, ok := report.Value(key); !ok || got != want {
			t.Errorf("%s: %q, %v", key, got, ok)
		}
	}
	if got, ok := report.Value("listen"); ok {
		t.Errorf("a section has the value %q", got)
	}
}
