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
	"hanse/services/app"
)

// version is set by the linker for releases.
var version = "development"

// defaultFile is read if it is there and no other file is named.
const defaultFile = "hanse.yaml"

// globals are the flags of all commands.
type globals struct {
	Config string   `help:"Configuration file; hanse.yaml if that exists." env:"HANSE_CONFIG" type:"path" placeholder:"FILE"`
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

// load reads the configuration from all its sources.
func (g *globals) load() (*app.Config, *config.Report, error) {
	file := g.Config
	if file == "" {
		if _, err := os.Stat(defaultFile); err == nil {
			file = defaultFile
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
	}
	cfg := app.Defaults()
	report, err := config.Load(cfg, config.Sources{File: file, Env: os.Environ(), Set: g.Set, Reserved: []string{"HANSE_CONFIG"}})
	if err != nil {
		return nil, report, fmt.Errorf("configuration:\n%w", err)
	}
	return cfg, report, nil
}

// admin opens the databases for one of the operator's commands.
func (g *globals) admin(ctx context.Context, do func(a *app.Admin) error) error {
	cfg, _, err := g.load()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	a, err := app.OpenAdmin(ctx, cfg, log)
	if err != nil {
		return err
	}
	return errors.Join(do(a), a.Close())
}

type configCmd struct{}

func (configCmd) Run(g *globals) error {
	_, report, err := g.load()
	if report == nil {
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

type migrateCmd struct{}

func (migrateCmd) Run(ctx context.Context, g *globals) error {
	g.Set = append(g.Set, "postgresql.migrate=true")
	return g.admin(ctx, func(*app.Admin) error { return nil })
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
