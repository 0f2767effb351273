package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hanse/pkg/config"
)

func TestDefaultsAreValidAndDocumented(t *testing.T) {
	report, err := config.Load(Defaults(), config.Sources{})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range report.Undocumented() {
		t.Errorf("%s has no sentence of documentation", key)
	}
	var out strings.Builder
	if err := report.Print(&out); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "hanse.yaml")
	if err := os.WriteFile(file, []byte(out.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(Defaults(), config.Sources{File: file}); err != nil {
		t.Errorf("the printed defaults do not load: %v", err)
	}
}

func TestInvalidConfigurations(t *testing.T) {
	for setting, want := range map[string]string{
		"server_names=":                             "server_names",
		"server_names=bad name":                     "is not a server name",
		"server_names=example.org:99999999":         "is not a server name",
		"listen.client.address=8008":                "want host:port",
		"listen.client.tls_cert=/nonexistent":       "go together",
		"listen.grpc.ca=/nonexistent":               "go together",
		"nats.url=localhost":                        "want nats://",
		"log.format=xml":                            "json or text",
		"log.level=loud":                            "log.level",
		"tracing.ratio=2":                           "0 to 1",
		"federation.allow=10.0.0.1":                 "federation.allow",
		"federation.ca_files=/nonexistent":          "no such file",
		"appservices.files=/nonexistent":            "no such file",
		"postgresql.partitions=0":                   "partitions",
		"password.iterations=0":                     "iterations",
		"rate_limits.limits={login: {burst: 0}}":    "login",
		"rate_limits.limits={login: {burts: 1}}":    "no such key",
		"drain_timeout=0s":                          "must be positive",
		"federation.trusted_key_servers=not a name": "is not a server name",
	} {
		_, err := config.Load(Defaults(), config.Sources{Set: []string{setting}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: err = %v, want %q in it", setting, err, want)
		}
	}
}

func TestOneOfManyNeedsServersThatAllReach(t *testing.T) {
	cfg := Defaults()
	if err := embeddedFits(cfg, roles); err != nil {
		t.Errorf("all roles in one process: %v", err)
	}
	some, err := pick([]string{"sync", "client"})
	if err != nil || len(some) != 2 || some[0].name != "client" {
		t.Fatalf("picked %v, %v", some, err)
	}
	err = embeddedFits(cfg, some)
	for _, key := range []string{"nats.url", "redis.url", "postgresql.shards", "listen.grpc.address"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("err = %v, want %s in it", err, key)
		}
	}
	cfg.Listen.GRPC.Address = "127.0.0.1:1"
	if err := embeddedFits(cfg, roles); err == nil || !strings.Contains(err.Error(), "nats.url") {
		t.Errorf("all roles, but others too: err = %v", err)
	}
	if _, err := pick([]string{"cook"}); err == nil {
		t.Error("there is a role cook")
	}
}

func TestWorkerID(t *testing.T) {
	cfg := Defaults()
	cfg.Listen.GRPC.Address = "10.0.0.1:7000"
	if id := cfg.workerID(); !strings.HasSuffix(id, "-7000") || strings.ContainsAny(id, ". :") {
		t.Errorf("worker id %q", id)
	}
	cfg.WorkerID = "room-3"
	if id := cfg.workerID(); id != "room-3" {
		t.Errorf("worker id %q", id)
	}
}
