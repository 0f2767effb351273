package appservice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hanse/pkg/await"
	"hanse/pkg/bus"
	"hanse/pkg/matrix/id"
	"hanse/pkg/pg"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/userdb"
)

var names = []id.Server{"a.example", "b.example"}

const patience = 2 * time.Minute

// other is a second service, which goes together with irc.
const other = `
id: xmpp
url: null
as_token: as-other
hs_token: hs-other
sender_localpart: xmppbot
namespaces: {users: [{exclusive: true, regex: "@_xmpp_.*"}], aliases: [{exclusive: true, regex: "#_xmpp_.*"}]}
`

// clashes are ways in which the other service does not go together with irc.
var clashes = map[string]struct{ old, new, want string }{
	"id":                 {"id: xmpp", "id: irc", "registered twice"},
	"as_token":           {"as-other", "as-secret", "the same as_token"},
	"hs_token":           {"hs-other", "hs-secret", "the same hs_token"},
	"tokens across":      {"hs-other", "as-secret", "the hs_token of the former is the as_token of the latter"},
	"sender":             {"xmppbot", "ircbot", "the same sender"},
	"sender of another":  {"xmppbot", "_irc_bot", "is in the exclusive namespace"},
	"users of another":   {"@_xmpp_.*", "@_irc_a.*", "exclusive namespaces overlap"},
	"aliases of another": {"#_xmpp_.*", "#.*", "exclusive namespaces overlap"},
}

type world struct {
	shards *pg.Shards
	users  *userdb.DB
	store  *Store
	bus    *bus.Bus
}

func newWorld(t *testing.T) *world {
	t.Helper()
	b, err := bus.Open(t.Context(), bus.Config{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	w := &world{shards: pgtest.NewSharded(t, 2), bus: b}
	w.users, w.store = userdb.New(w.shards, b), NewStore(w.shards)
	return w
}

func (w *world) deps(files ...string) Deps {
	return Deps{Store: w.store, Files: files, Names: names, Accounts: w.users, Bus: w.bus}
}

func (w *world) open(t *testing.T, files ...string) *Registry {
	t.Helper()
	r, err := Open(t.Context(), w.deps(files...))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// run runs a registry until the test ends.
func run(t *testing.T, r *Registry) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (w *world) add(t *testing.T, text string, replace bool) error {
	t.Helper()
	return w.store.Add(t.Context(), parse(t, text), replace, nil, w.users)
}

func write(t *testing.T, texts ...string) []string {
	t.Helper()
	var files []string
	for i, text := range texts {
		f := filepath.Join(t.TempDir(), string(rune('a'+i))+".yaml")
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What does not go together is refused at the start, from files, and when it is added.
func TestClashes(t *testing.T) {
	w := newWorld(t)
	w.open(t, write(t, irc, other)...)
	must(t, w.add(t, irc, false))
	for name, c := range clashes {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(other, c.old, c.new, 1)
			if text == other {
				t.Fatal("nothing was replaced")
			}
			if _, err := Open(t.Context(), Deps{Store: NewStore(pgtest.New(t)), Files: write(t, irc, text), Names: names, Accounts: w.users}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("files: %v, want %q", err, c.want)
			}
			want := c.want
			if name == "id" {
				want = ErrExists.Error()
			}
			if err := w.add(t, text, false); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("store: %v, want %q", err, want)
			}
			if name == "id" {
				return // with a service in a file, below
			}
			if _, err := Open(t.Context(), w.deps(write(t, text)...)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("file and store: %v, want %q", err, c.want)
			}
		})
	}
	if _, err := Open(t.Context(), w.deps(write(t, irc)...)); err == nil || !strings.Contains(err.Error(), "registered twice") {
		t.Errorf("in a file and in the store: %v", err)
	}
	if _, err := Open(t.Context(), w.deps("/nonexistent")); err == nil {
		t.Error("a missing file was accepted")
	}
	// The same namespaces belong to two services of two names: nothing is shared.
	must(t, w.add(t, strings.NewReplacer("id: irc", "id: irc-b", "as-secret", "as-b", "hs-secret", "hs-b").Replace(irc)+"server_name: b.example\n", false))
}

// Two workers know what is added, replaced and removed without a restart.
func TestStoreChangesWhileRunning(t *testing.T) {
	w := newWorld(t)
	files := write(t, other)
	one, two := w.open(t, files...), w.open(t, files...)
	one.every, two.every = time.Hour, time.Hour // the bus tells
	run(t, one)
	run(t, two)
	// The subscriptions have begun when the bus has brought something through each; a change is announced until then.
	tell := func(what string, cond func(*Snapshot) bool) {
		t.Helper()
		for _, r := range []*Registry{one, two} {
			await.True(t, patience, what, func() bool {
				must(t, w.bus.PublishAppservices())
				return cond(r.Current())
			})
		}
	}
	before := one.Current()
	changed := one.Changed()
	must(t, w.add(t, irc, false))
	tell("the service is known", func(s *Snapshot) bool { return s.ByID("irc") != nil && s.ByToken("as-secret") == s.ByID("irc") })
	<-changed
	if s := one.Current(); s.Version() <= before.Version() || s.ByID("xmpp") != before.ByID("xmpp") || len(s.All()) != 2 || s.All()[0].ID != "irc" {
		t.Error("the service that has not changed is another one")
	}
	if err := w.add(t, irc, false); !errors.Is(err, ErrExists) {
		t.Errorf("added twice: %v", err)
	}
	must(t, w.add(t, with(t, "as-secret", "as-new"), true))
	tell("the token is replaced", func(s *Snapshot) bool { return s.ByToken("as-new") != nil && s.ByToken("as-secret") == nil })
	must(t, w.store.Remove(t.Context(), "irc"))
	tell("the service is gone", func(s *Snapshot) bool { return s.ByID("irc") == nil && s.ByToken("as-new") == nil && len(s.All()) == 1 })
	if err := w.store.Remove(t.Context(), "irc"); !errors.Is(err, ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	if err := w.store.Remove(t.Context(), "xmpp"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a service of a file was removed: %v", err)
	}
}

// A registry that begins without services tells of the first one.
func TestFirstService(t *testing.T) {
	w := newWorld(t)
	r := w.open(t)
	changed := r.Changed()
	if n := len(r.Current().All()); n != 0 {
		t.Fatalf("%d services", n)
	}
	must(t, w.add(t, irc, false))
	must(t, r.Reload(t.Context()))
	select {
	case <-changed:
	default:
		t.Error("nobody is told of the first service")
	}
	if r.Current().ByID("irc") == nil {
		t.Error("the first service is not known")
	}
}

// Without the bus, workers look by themselves: at the store and at the files.
func TestReloadWithoutBus(t *testing.T) {
	w := newWorld(t)
	files := write(t, other)
	r := w.open(t, files...)
	r.every = 20 * time.Millisecond
	run(t, r)
	must(t, w.add(t, irc, false))
	await.True(t, patience, "the service is known", func() bool { return r.Current().ByID("irc") != nil })
	must(t, os.WriteFile(files[0], []byte(strings.Replace(other, "as-other", "as-new", 1)), 0o600))
	await.True(t, patience, "the file is read again", func() bool { return r.ByToken("as-new") != nil && r.ByToken("as-other") == nil })

	// What is wrong later changes nothing.
	kept := r.Current()
	for _, bad := range []string{"as_token: [", strings.Replace(other, "as-other", "as-secret", 1), strings.Replace(other, "id: xmpp", "id: irc", 1)} {
		must(t, os.WriteFile(files[0], []byte(bad), 0o600))
		if err := r.Reload(t.Context()); err == nil || r.Current() != kept {
			t.Errorf("%q was taken: %v", bad, err)
		}
	}
	must(t, os.WriteFile(files[0], []byte(other), 0o600))
	await.True(t, patience, "the mended file is read", func() bool { return r.ByToken("as-other") != nil })
}

// The sender has an account, which is nobody else's.
func TestSender(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	r := w.open(t, write(t, irc)...)
	sender := r.Current().ByID("irc").Sender
	a, err := w.users.Account(ctx, sender)
	if err != nil || a.AppserviceID != "irc" || a.PasswordHash != "" {
		t.Fatalf("account of the sender: %+v, %v", a, err)
	}
	w.open(t, write(t, irc)...) // a restart
	if err := w.add(t, strings.NewReplacer("id: xmpp", "id: third", "xmppbot", "ircbot").Replace(other), false); err != nil {
		t.Errorf("the sender of a service that is gone: %v", err) // the store knows of no file
	}
	must(t, w.store.Remove(ctx, "third"))

	for user, appservice := range map[id.User]string{"@xmppbot:a.example": "", "@ghost:a.example": "irc"} {
		_, err := w.users.CreateAccount(ctx, userdb.NewAccount{User: user, Appservice: appservice, CreatedTS: 1})
		must(t, err)
	}
	if _, err := Open(ctx, w.deps(write(t, other)...)); err == nil || !strings.Contains(err.Error(), "@xmppbot:a.example is an account of somebody already") {
		t.Errorf("a person's account as sender, from a file: %v", err)
	}
	if err := w.add(t, other, false); err == nil || !strings.Contains(err.Error(), "account of somebody") {
		t.Errorf("a person's account as sender: %v", err)
	}
	must(t, w.add(t, irc, false))
	if err := w.add(t, strings.Replace(other, "xmppbot", "ghost", 1), false); err == nil || !strings.Contains(err.Error(), `account of application service "irc"`) {
		t.Errorf("another service's user as sender: %v", err)
	}
}

// The store has no token that could be used here, and keeps all that a registration says.
func TestStored(t *testing.T) {
	w := newWorld(t)
	must(t, w.add(t, with(t, `"@guest_.*"`, `"@guest\\x00_.*"`), false))
	var raw string
	must(t, w.store.pool().QueryRow(t.Context(), `SELECT registration FROM appservice`).Scan(&raw))
	if strings.Contains(raw, "as-secret") || !strings.Contains(raw, "hs-secret") {
		t.Errorf("stored: %s", raw)
	}
	list, err := w.store.List(t.Context())
	must(t, err)
	if len(list) != 1 {
		t.Fatalf("%d are stored", len(list))
	}
	s := list[0]
	if s.Sender != "@ircbot:a.example" || s.RateLimited || !s.ReceiveEphemeral || !s.Encryption || s.HSToken != "hs-secret" || !s.Users[0].Exclusive ||
		Of(s).ByToken("as-secret") != s || s.Protocols[0] != "irc" || s.Origin != originStore {
		t.Errorf("read back: %+v", s.reg)
	}
}

// A service of a name that the configuration lost is left out; the others go on.
func TestNameThatIsNotServedAnyMore(t *testing.T) {
	w := newWorld(t)
	must(t, w.add(t, irc+"server_name: b.example\n", false))
	must(t, w.add(t, other, false))
	d := w.deps()
	d.Names = names[:1]
	r, err := Open(t.Context(), d)
	must(t, err)
	if all := r.All(); len(all) != 1 || all[0].ID != "xmpp" {
		t.Errorf("services: %v", all)
	}
}

// A thousand services, each with namespaces of its own, are a normal day.
func TestThousandServices(t *testing.T) {
	w := newWorld(t)
	var texts []string
	for i := range 1000 {
		texts = append(texts, fmt.Sprintf(`
id: s%[1]d
url: null
as_token: as%[1]d
hs_token: hs%[1]d
sender_localpart: bot%[1]d
namespaces:
  users: [{exclusive: true, regex: "@_s%[1]d_.*:a\\.example"}, {exclusive: false, regex: "@.*"}]
  aliases: [{exclusive: true, regex: "^#_s%[1]d_.*"}]
`, i))
	}
	dir := t.TempDir()
	var files []string
	for i, text := range texts {
		f := filepath.Join(dir, fmt.Sprint(i))
		must(t, os.WriteFile(f, []byte(text), 0o600))
		files = append(files, f)
	}
	r := w.open(t, files...)
	if s := r.OwnerOfUser("@_s7_x:a.example"); s == nil || s.ID != "s7" || r.OwnerOfUser("@_s_x:a.example") != nil {
		t.Errorf("owner: %v", s)
	}
	if s := r.ByToken("as999"); s == nil || s.ID != "s999" {
		t.Errorf("by token: %v", s)
	}
	var accounts int
	for _, pool := range w.shards.All() {
		var n int
		must(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM account WHERE appservice_id <> ''`).Scan(&n))
		accounts += n
	}
	if accounts != 1000 {
		t.Errorf("%d senders have accounts", accounts)
	}
}
