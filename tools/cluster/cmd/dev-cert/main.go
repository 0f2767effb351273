// Command dev-cert makes a certificate for a server on this machine, from a CA that it makes when there is none yet.
package main

import (
	"fmt"
	"os"

	"github.com/alecthomas/kong"

	"hanse/tools/cluster"
)

var cli struct {
	CA    string   `name:"ca" required:"" help:"Directory of the CA."`
	Out   string   `required:"" help:"Directory for server.pem and server.key."`
	Names []string `arg:"" help:"Host names and addresses."`
}

func main() {
	kong.Parse(&cli, kong.Name("dev-cert"), kong.UsageOnError())
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "dev-cert:", err)
		os.Exit(1)
	}
}

func run() error {
	for _, dir := range []string{cli.CA, cli.Out} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	ca, err := cluster.OpenCA(cli.CA)
	if err != nil {
		return err
	}
	_, _, err = ca.IssueFiles(cli.Out, "server", append(cli.Names, "localhost", "127.0.0.1", "::1")...)
	return err
}
