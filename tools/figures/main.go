package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/alecthomas/kong"
)

type options struct {
	Root      string   `default:"." type:"existingdir" help:"Directory of the repository."`
	Size      int      `help:"Leave out what is larger (entries of a state, events); 0: measure all that docs have. All takes an hour; 10000 some minutes."`
	Count     int      `default:"3" help:"Runs of each benchmark, of which the best counts."`
	Benchtime string   `default:"0.3s" help:"Time or number of operations of each run, as for go test."`
	Reports   string   `type:"existingdir" help:"Directory with reports of tools/loadgen/suite.sh, for the tables that come from those."`
	Write     bool     `help:"Replace the tables in docs instead of printing them."`
	Tables    []string `arg:"" optional:"" help:"Names of the tables; all if none is named."`
}

func main() {
	var o options
	kong.Parse(&o, kong.Description("Prints the tables of docs anew."))
	if err := o.run(); err != nil {
		fmt.Fprintln(os.Stderr, "figures:", err)
		os.Exit(1)
	}
}

func (o *options) run() error {
	chosen, err := o.chosen()
	if err != nil {
		return err
	}
	for _, t := range chosen {
		fmt.Fprintf(os.Stderr, "== %s\n", t.name)
		text, err := o.render(t)
		if err != nil {
			return fmt.Errorf("table %s: %w", t.name, err)
		}
		if !o.Write {
			fmt.Printf("%s\n%s\n", mark(t.name), text)
			continue
		}
		if err := replace(filepath.Join(o.Root, "docs"), t.name, text); err != nil {
			return err
		}
	}
	return nil
}

func (o *options) chosen() ([]table, error) {
	var out []table
	for _, name := range o.Tables {
		t, ok := find(name)
		if !ok {
			return nil, fmt.Errorf("no table %q", name)
		}
		out = append(out, t)
	}
	if len(out) > 0 {
		return out, nil
	}
	for _, t := range tables {
		if t.report == "" || o.Reports != "" {
			out = append(out, t)
		}
	}
	return out, nil
}

func (o *options) render(t table) (string, error) {
	var m measured
	var err error
	switch {
	case t.report == "":
		m, err = o.bench(t)
	case o.Reports == "":
		return "", errors.New("it comes from reports of tools/loadgen/suite.sh: say where they are with --reports")
	default:
		m, err = readReport(filepath.Join(o.Reports, t.report))
	}
	if err != nil {
		return "", err
	}
	return t.text(m)
}

func mark(name string) string { return "<!-- figures: " + name + " -->" }

var marked = regexp.MustCompile(`<!-- figures: (\S+) -->\n((?:\|.*\n)*)`)

// replace puts a table in the place of the one behind its mark.
func replace(docs, name, text string) error {
	files, err := filepath.Glob(filepath.Join(docs, "*.md"))
	if err != nil {
		return err
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		was := string(b)
		now := marked.ReplaceAllStringFunc(was, func(s string) string {
			if !strings.HasPrefix(s, mark(name)) {
				return s
			}
			return mark(name) + "\n" + text
		})
		if now != was {
			return os.WriteFile(file, []byte(now), 0o644)
		}
	}
	return nil
}
