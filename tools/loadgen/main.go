package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"hanse/tools/loadgen/measure"
	"hanse/tools/loadgen/report"
	"hanse/tools/loadgen/scenario"
	"hanse/tools/loadgen/stage"
	"hanse/tools/mxclient"
)

// cli is the command line. The scenarios' flags are the tags of their fields.
type cli struct {
	Server   string            `default:"http://127.0.0.1:8008" env:"LOADGEN_SERVER" help:"Base URL of the homeserver; several, separated by commas, are replicas of one."`
	Secret   string            `env:"LOADGEN_SECRET" help:"Registration secret; without it accounts are registered with m.login.dummy."`
	State    string            `default:"loadgen.state.json" help:"File that keeps accounts and rooms for the next run."`
	Prefix   string            `default:"load" help:"Prefix of user names."`
	Password string            `default:"load-password-1" help:"Password of the accounts."`
	PID      []int             `name:"pid" help:"Processes of the server to measure."`
	PIDTree  []int             `name:"pid-tree" help:"Processes to measure with all that descend from them."`
	Postgres []string          `help:"Connection strings of the server's databases, to count rows and commits."`
	Metrics  []string          `help:"URLs of the server's Prometheus metrics, for --ratio."`
	Ratio    map[string]string `help:"Ratios of what counters of the server grew by, as NAME=COUNTER/COUNTER; separated by semicolons."`
	Quiet    time.Duration     `name:"quiet-timeout" default:"30s" help:"How long to wait for the server to be quiet."`
	Timeout  time.Duration     `default:"60s" help:"Time limit of a request, long polls aside."`
	Retries  int               `default:"5" help:"How often a request is repeated that may be."`
	Setup    int               `name:"setup-concurrency" default:"8" help:"Requests at a time while setting up."`
	Insecure bool              `help:"Do not verify the server's TLS certificate."`
	JSON     string            `name:"json" help:"Write the report as JSON to this file; -: standard output, without the text."`
	Label    string            `help:"Name of this measurement, for comparing."`

	Send        scenario.Send        `cmd:"" help:"Send messages."`
	Senders     scenario.Senders     `cmd:"" help:"Send messages with more and more senders."`
	Deliver     scenario.Deliver     `cmd:"" help:"Send messages to people who poll; checks loss, doubles and order."`
	Join        scenario.Join        `cmd:"" help:"Local joins into one room."`
	InitialSync scenario.InitialSync `cmd:"" help:"First sync of a new device."`
	Login       scenario.Login       `cmd:"" help:"Password logins."`
	Register    scenario.Register    `cmd:"" help:"Registrations."`
	CreateRoom  scenario.CreateRoom  `cmd:"" help:"Create rooms."`
	IdlePoll    scenario.IdlePoll    `cmd:"" help:"Memory and CPU of idle long polls."`
	Window      scenario.Window      `cmd:"" help:"Sliding sync: the first window, or requests without news."`
	Growth      scenario.Growth      `cmd:"" help:"Deliver in rooms of growing size."`
	Compare     compareCmd           `cmd:"" help:"Ratios of two JSON reports."`
}

type compareCmd struct {
	First  string `arg:"" type:"existingfile" help:"Report to compare with."`
	Second string `arg:"" type:"existingfile" help:"Report to compare."`
}

func (c *compareCmd) run() error {
	a, err := report.Read(c.First)
	if err != nil {
		return err
	}
	b, err := report.Read(c.Second)
	if err != nil {
		return err
	}
	return report.Compare(os.Stdout, a, b)
}

// errFailed ends the program with status 1 after a report that speaks for itself.
var errFailed = errors.New("requests failed or the books are wrong")

func main() {
	var c cli
	k := kong.Parse(&c, kong.Name("loadgen"),
		kong.Description("Measures the capacity of a Matrix homeserver."),
		kong.UsageOnError(), kong.Vars{"lazy": scenario.LazyFilter})
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	name := k.Selected().Name
	var err error
	if name == "compare" {
		err = c.Compare.run()
	} else {
		err = c.measure(ctx, c.scenarios()[name])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "loadgen:", err)
		os.Exit(1)
	}
}

func (c *cli) scenarios() map[string]scenario.Scenario {
	return map[string]scenario.Scenario{
		"send": &c.Send, "deliver": &c.Deliver, "join": &c.Join, "initial-sync": &c.InitialSync,
		"login": &c.Login, "register": &c.Register, "create-room": &c.CreateRoom,
		"idle-poll": &c.IdlePoll, "growth": &c.Growth, "senders": &c.Senders, "window": &c.Window,
	}
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// measure runs one scenario.
func (c *cli) measure(ctx context.Context, s scenario.Scenario) (err error) {
	if err := raiseFileLimit(); err != nil {
		return err
	}
	meter, err := c.meter()
	if err != nil {
		return err
	}
	retries := &scenario.Tally{}
	client := mxclient.New(c.Server, mxclient.Options{
		Transport: mxclient.NewTransport(0, &tls.Config{InsecureSkipVerify: c.Insecure}),
		Timeout:   c.Timeout,
		UserAgent: "hanse-loadgen",
		Retry:     mxclient.Retry{Attempts: c.Retries + 1, OnRetry: func(err error) { retries.Add("retry", err) }},
	})
	if _, err := client.Versions(ctx); err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	st, err := stage.Open(ctx, client, stage.Config{
		Server: c.Server, Secret: c.Secret, Prefix: c.Prefix, Password: c.Password,
		File: c.State, Concurrency: c.Setup, Progress: progress,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Save()) }()
	r, err := s.Run(ctx, &scenario.Env{
		Client: client, Stage: st, Server: c.Server, Label: c.Label, Retries: retries, Progress: progress,
		Run:   strconv.FormatInt(time.Now().UnixNano(), 36),
		Meter: meter,
	})
	if r != nil {
		err = errors.Join(err, c.print(r))
	}
	if err == nil && r.Failed() {
		err = errFailed
	}
	return err
}

func (c *cli) meter() (*measure.Meter, error) {
	m := &measure.Meter{
		Target:   measure.Target{PIDs: c.PID, Trees: c.PIDTree},
		Postgres: c.Postgres, Metrics: c.Metrics, QuietTimeout: c.Quiet,
	}
	for name, text := range c.Ratio {
		r, err := measure.ParseRatio(name, text)
		if err != nil {
			return nil, err
		}
		m.Ratios = append(m.Ratios, r)
	}
	return m, nil
}

func (c *cli) print(r *report.Report) error {
	if c.JSON != "-" {
		if err := r.Text(os.Stdout); err != nil {
			return err
		}
	}
	if c.JSON == "" {
		return nil
	}
	return r.WriteJSON(c.JSON)
}

// raiseFileLimit allows as many connections as the system does: each poll has
// one.
func raiseFileLimit() error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	l.Cur = l.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	return nil
}
