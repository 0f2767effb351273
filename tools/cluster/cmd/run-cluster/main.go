// Command run-cluster runs whole clusters on this machine until it is interrupted, tells of processes that die, and brings
// them back when asked: 'make run-cluster'.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

var cli struct {
	Dir   string   `default:"run" help:"Directory for data and logs." type:"path"`
	Run   runCmd   `cmd:"" default:"withargs" help:"Run clusters until Ctrl-C."`
	Start startCmd `cmd:"" help:"Start a process of a running cluster that has ended."`
}

func main() {
	k := kong.Parse(&cli, kong.Name("run-cluster"), kong.UsageOnError())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	k.BindTo(ctx, (*context.Context)(nil))
	if err := k.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "run-cluster:", err)
		os.Exit(1)
	}
}
