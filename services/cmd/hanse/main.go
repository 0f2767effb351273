// Command hanse is the Matrix homeserver: all of its roles, in one process or in many, and the operator's commands.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"

	"hanse/pkg/config"
	"hanse/services/admin"
	"hanse/services/app"
)

// version is set by the linker for releases.
var version = "development"

// defaultFiles are where the configuration is looked for if no file is named; the first that exists is read. The second
// one is what 'make run' writes.
var defaultFiles = []string{"hanse.yaml", "data/hanse.yaml"}

// globals are the flags of all commands.
type globals struct {
	Config string   `help:"Configuration file; if none is given, hanse.yaml or data/hanse.yaml, the first that exists." env:"HANSE_CONFIG" type:"path" placeholder:"FILE"`
	Set    []string `help:"Set a configuration value: key=value. May be repeated." sep:"none" placeholder:"KEY=VALUE"`
}

var cli struct {
	globals
	Run       runCmd        `cmd:"" help:"Run roles; all of them unless --role says which."`
	ConfigCmd configCmd     `cmd:"" name:"config" help:"Check the configuration and print what is in force, with the source of each value."`
	Migrate   migrateCmd    `cmd:"" help:"Bring the schema of all shards up to date."`
	User      userCmd       `cmd:"" help:"Make and change accounts."`
	Partition partitionCmd  `cmd:"" help:"Look at the partitions and move them between workers."`
	Keys      keysCmd       `cmd:"" help:"Look at the servers' signing keys and replace them."`
	Secret    secretCmd     `cmd:"" help:"Replace the secret that workers sign with what they leave in Redis."`
	Dead      deadLetterCmd `cmd:"" name:"deadletter" help:"Look at entries of the log that could not be processed, and have them processed."`
	Media     mediaCmd      `cmd:"" help:"Look after the files that users share."`
	Apps      appserviceCmd `cmd:"" name:"appservice" help:"Look after application services: bridges and bots."`
	Search    searchCmd     `cmd:"" help:"Look after the index of words."`
	Probe     probeCmd      `cmd:"" help:"Ask URLs until each has answered with a status below 500: whether a cluster works, seen from here."`
	Version   versionCmd    `cmd:"" help:"Print the version."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal does not wait
	k := kong.Parse(&cli, kong.Name("hanse"), kong.Description("A Matrix homeserver whose every role scales on its own."),
		kong.UsageOnError(), kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(&cli.globals))
	if err := k.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "hanse:", err)
		os.Exit(1)
	}
}

// file returns the configuration file to read, "" if there is none.
func (g *globals) file() (string, error) {
	if g.Config != "" {
		return g.Config, nil
	}
	for _, file := range defaultFiles {
		if _, err := os.Stat(file); err == nil {
			return file, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", nil
}

// load reads the configuration from all its sources.
func (g *globals) load() (*app.Config, *config.Report, error) {
	file, err := g.file()
	if err != nil {
		return nil, nil, err
	}
	cfg := app.Defaults()
	report, err := config.Load(cfg, config.Sources{File: file, Env: os.Environ(), Set: g.Set, Reserved: []string{"HANSE_CONFIG"}})
	if err != nil {
		return nil, report, fmt.Errorf("configuration:\n%w", err)
	}
	return cfg, report, nil
}

// admin opens the databases for one of the operator's commands.
func (g *globals) admin(ctx context.Context, do func(a *admin.Admin) error) error {
	cfg, _, err := g.load()
	if err != nil {
		return err
	}
	o, err := app.OpenAdmin(ctx, cfg, commandLog())
	if err != nil {
		return err
	}
	return errors.Join(do(o.Admin), o.Close())
}

// commandLog is the log of the operator's commands: warnings only, for people.
func commandLog() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

type configCmd struct {
	Show  configShow  `cmd:"" default:"withargs" help:"Print what is in force, or the value of one key."`
	Check configCheck `cmd:"" help:"Check the configuration with the files that it names, and print nothing but what is wrong."`
}

type configShow struct {
	Key string `arg:"" optional:"" help:"Print the value of this key only: a list with an entry in each line."`
}

func (c *configShow) Run(g *globals) error {
	_, report, err := g.load()
	if report == nil {
		return err
	}
	if c.Key != "" {
		value, ok := report.Value(c.Key)
		if !ok {
			return fmt.Errorf("there is no key %q", c.Key)
		}
		fmt.Println(value)
		return err
	}
	if printErr := report.Print(os.Stdout); printErr != nil {
		return printErr
	}
	for _, w := range report.Warnings {
		fmt.Fprintln(os.Stderr, "warning:", w)
	}
	return err
}

type configCheck struct {
	Role []string `help:"Roles of the process, separated by commas; all of them if none is given." placeholder:"ROLE"`
}

func (c *configCheck) Run(g *globals) error {
	cfg, report, err := g.load()
	if err != nil {
		return err
	}
	for _, w := range report.Warnings {
		fmt.Fprintln(os.Stderr, "warning:", w)
	}
	return app.Check(cfg, c.Role, commandLog())
}

type migrateCmd struct{}

func (migrateCmd) Run(ctx context.Context, g *globals) error {
	cfg, _, err := g.load()
	if err != nil {
		return err
	}
	return app.Migrate(ctx, cfg, commandLog())
}

type versionCmd struct{}

func (versionCmd) Run() error {
	fmt.Println("hanse", version)
	if info, ok := debug.ReadBuildInfo(); ok {
		fmt.Println(info.GoVersion)
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				fmt.Println("commit", s.Value)
			}
		}
	}
	return nil
}
