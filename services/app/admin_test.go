package app

import (
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"

	"hanse/pkg/matrix/id"
	"hanse/pkg/pg"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/servers"
)

// An operator's command with the wrong configuration makes no cluster, and none of another name.
func TestOperatorCommandsFindTheirCluster(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	open := func(cfg *Config) error {
		o, err := OpenAdmin(t.Context(), cfg, log)
		if err != nil {
			return err
		}
		return o.Close()
	}
	cfg := Defaults()
	cfg.DataDir = t.TempDir()
	if err := open(cfg); err == nil || !strings.Contains(err.Error(), "--config") {
		t.Errorf("an empty data directory: %v", err)
	}
	if entries, err := os.ReadDir(cfg.DataDir); err != nil || len(entries) > 0 {
		t.Errorf("the command left %v, %v", entries, err)
	}

	cfg.PostgreSQL = pgtest.Config(t, 2)
	if err := open(cfg); !errors.Is(err, pg.ErrNoCluster) {
		t.Errorf("an empty database: %v", err)
	}
	if err := Migrate(t.Context(), cfg, log); err != nil {
		t.Fatal(err)
	}
	if err := open(cfg); err != nil {
		t.Fatalf("a new cluster: %v", err)
	}

	shards, err := pg.Open(t.Context(), cfg.PostgreSQL)
	if err != nil {
		t.Fatal(err)
	}
	defer shards.Close()
	if _, err := servers.Open(t.Context(), shards, []id.Server{"one.example", "two.example"}, log); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		names []string
		ok    bool
	}{
		{[]string{"one.example", "two.example"}, true},
		{[]string{"one.example"}, true}, // a warning
		{[]string{"three.example", "two.example", "one.example"}, true},
		{[]string{"three.example"}, false},
	} {
		cfg.ServerNames = c.names
		if err := open(cfg); (err == nil) != c.ok || (err != nil && !strings.Contains(err.Error(), "one.example two.example")) {
			t.Errorf("%v: %v", c.names, err)
		}
	}
}
