package admin

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hanse/pkg/appservice"
	"hanse/pkg/matrix/id"
	"hanse/pkg/password"
	"hanse/pkg/pg/pgtest"
)

const bridge = `
id: bridge
url: null
as_token: as-secret
hs_token: hs-secret
sender_localpart: bridgebot
namespaces: {users: [{exclusive: true, regex: "@_bridge_.*"}]}
`

// Application service API, "Registration": services of the files and of the store are one set.
func TestAppservices(t *testing.T) {
	ctx := t.Context()
	file := filepath.Join(t.TempDir(), "a.yaml")
	if err := os.WriteFile(file, []byte(bridge), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := New(Deps{Names: []id.Server{"a.example", "b.example"}, Shards: pgtest.New(t), Bus: silent{}, AppserviceFiles: []string{file},
		Password: password.Config{MemoryKiB: 8, Iterations: 1, Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	second := strings.NewReplacer("id: bridge", "id: two", "as-secret", "as-two", "hs-secret", "hs-two", "bridgebot", "two").Replace(bridge)
	if _, err := a.AddAppservice(ctx, []byte(second), "", false); err == nil || !strings.Contains(err.Error(), "exclusive namespaces overlap") {
		t.Errorf("the namespace of a service in a file: %v", err)
	}
	if _, err := a.AddAppservice(ctx, []byte(bridge), "", true); err == nil || !strings.Contains(err.Error(), "registered twice") {
		t.Errorf("the id of a service in a file: %v", err)
	}
	if _, err := a.AddAppservice(ctx, []byte(second), "c.example", false); err == nil || !strings.Contains(err.Error(), "c.example") {
		t.Errorf("a name of another cluster: %v", err)
	}
	if _, err := a.AddAppservice(ctx, []byte(second+"server_name: a.example\n"), "b.example", false); err == nil || !strings.Contains(err.Error(), "the registration is one of a.example") {
		t.Errorf("two names: %v", err)
	}
	for i, replace := range []bool{false, true} {
		s, err := a.AddAppservice(ctx, []byte(second), "b.example", replace)
		if err != nil || s.Sender != "@two:b.example" {
			t.Fatalf("add %d: %+v, %v", i, s, err)
		}
	}
	all, err := a.Appservices(ctx)
	if err != nil || len(all) != 2 || all[0].ID != "bridge" || all[0].Origin != file || all[1].Origin != "store" {
		t.Errorf("services: %v, %v", all, err)
	}
	if s, err := a.Appservice(ctx, "two"); err != nil || s.Server != "b.example" {
		t.Errorf("service: %v, %v", s, err)
	}
	if _, err := a.Appservice(ctx, "three"); err == nil {
		t.Error("a service that is not there was found")
	}
	// Nobody else gets an id that a service has to itself.
	if _, err := a.CheckNewUser(ctx, "_bridge_anna", ""); err == nil || !strings.Contains(err.Error(), `reserved by application service "bridge"`) {
		t.Errorf("a user in an exclusive namespace: %v", err)
	}
	if _, err := a.CheckNewUser(ctx, "anna", ""); err != nil {
		t.Error(err)
	}
	if err := a.RemoveAppservice(ctx, "two"); err != nil {
		t.Fatal(err)
	}
	if err := a.RemoveAppservice(ctx, "bridge"); !errors.Is(err, appservice.ErrNotFound) {
		t.Errorf("a service in a file was removed: %v", err)
	}
	if all, err := a.Appservices(ctx); err != nil || len(all) != 1 {
		t.Errorf("services: %v, %v", all, err)
	}
}
