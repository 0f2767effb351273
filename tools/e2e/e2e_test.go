package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hanse/tools/e2e/people"
	"hanse/tools/e2e/world"
)

// scenarios are played at the same time, each with people and rooms of its own.
var scenarios = []struct {
	name string
	play func(s *scene)
}{
	{"accounts", accounts},
	{"encrypted talk", encryptedTalk},
	{"second device", secondDevice},
	{"ephemeral", ephemeral},
	{"redaction", redaction},
	{"leave and rejoin", leaveAndRejoin},
	{"backfill", backfill},
	{"to-device and device lists", toDevice},
	{"profile", profile},
	{"power and bans", powerAndBans},
	{"directory", directory},
	{"knock", knock},
	{"restricted", restricted},
	{"presence", presence},
	{"bad input", badInput},
	{"tour", tour},
	{"replicas", replicas},
	{"redacted everywhere", redactedEverywhere},
	{"room versions", roomVersions},
	{"access lists", accessLists},
	{"media", media},
}

// TestCluster plays on clusters with two replicas of each role.
func TestCluster(t *testing.T) { play(t, "cluster", world.Config{}) }

// TestAllInOne plays on servers with all roles in one process.
func TestAllInOne(t *testing.T) { play(t, "single", world.Config{AllInOne: true}) }

func play(t *testing.T, mode string, cfg world.Config) {
	if want := os.Getenv("HANSE_E2E_MODE"); want != "" && want != mode {
		t.Skipf("HANSE_E2E_MODE is %s", want)
	}
	if os.Getenv("HANSE_E2E_SERVERS") == "1" {
		cfg.Servers = 1 // everybody at one server: to tell federation's troubles from others
	}
	cfg.Kinds = []people.Kind{people.Go, people.JS}
	begin := time.Now()
	w, err := world.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("started in %s", time.Since(begin).Round(time.Millisecond))
	t.Cleanup(func() {
		if t.Failed() {
			w.DumpLogs(os.Stderr)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("play", func(t *testing.T) {
		for _, sc := range scenarios {
			t.Run(sc.name, func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				sc.play(&scene{T: t, World: w, ctx: ctx})
			})
		}
	})
	exercised := w.Watch.Seen()
	t.Logf("%d operations of the specification were exercised", len(exercised))
	if file := os.Getenv("HANSE_E2E_SEEN"); file != "" {
		var b strings.Builder
		for _, op := range exercised {
			fmt.Fprintf(&b, "%6d %s %v %v\n", op.Count, op.Name, op.Status, op.Errors)
		}
		if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
			t.Error(err)
		}
	}
	for _, v := range w.Watch.Violations() {
		t.Errorf("against the specification: %s", v)
	}
	for _, line := range w.Errors() {
		t.Errorf("logged: %s", line)
	}
}

// patience bounds a scene, on a machine that does much else: what does not come by then does not come.
const patience = 4 * time.Minute

// scene is one play of a scenario.
type scene struct {
	*testing.T
	*world.World
	ctx context.Context
}

var names atomic.Int64

// name returns a new localpart.
func (s *scene) name(prefix string) string {
	return fmt.Sprintf("%s-%d", prefix, names.Add(1))
}

const password = "correct horse battery staple"

// person registers somebody at a server with a client of a kind, and starts syncing.
func (s *scene) person(kind people.Kind, server int, name string) *people.Person {
	s.Helper()
	p := try(s.Host(kind).Register(s.ctx, s.server(server).BaseURL, s.name(name), password))(s)
	s.do(p, "start", nil, nil)
	return p
}

// server returns the i-th server: 0 is alice's, 1 is bob's.
func (s *scene) server(i int) *world.Server { return s.Servers[i%len(s.Servers)] }

// do carries out an operation that has to succeed.
func (s *scene) do(p *people.Person, what string, in people.Args, out any) {
	s.Helper()
	if err := p.Do(s.ctx, what, in, out); err != nil {
		s.Fatalf("%s: %v", p.UserID, err)
	}
}

// refused carries out an operation that the server has to refuse with an errcode.
func (s *scene) refused(code string, p *people.Person, what string, in people.Args) {
	s.Helper()
	if err := p.Do(s.ctx, what, in, nil); !people.IsCode(err, code) {
		s.Fatalf("%s %s: %v, want %s", p.UserID, what, err, code)
	}
}

// until waits for a note, past or to come.
func (s *scene) until(p *people.Person, what string, fits func(*people.Note) bool) *people.Note {
	s.Helper()
	return s.after(p, 0, what, fits)
}

// after waits for a note that comes after a mark.
func (s *scene) after(p *people.Person, mark int, what string, fits func(*people.Note) bool) *people.Note {
	s.Helper()
	return try(p.AfterMark(s.ctx, mark, what, fits))(s)
}

// try returns a value, or ends the scene with the error.
func try[T any](v T, err error) func(*scene) T {
	return func(s *scene) T {
		s.Helper()
		if err != nil {
			s.Fatal(err)
		}
		return v
	}
}

// roomOptions is the body of createRoom.
type roomOptions map[string]any

var encrypted = map[string]any{"type": "m.room.encryption", "state_key": "", "content": map[string]any{"algorithm": "m.megolm.v1.aes-sha2"}}

// room creates a room and waits until its creator has synced it.
func (s *scene) room(p *people.Person, o roomOptions) string {
	s.Helper()
	var created struct {
		Room string `json:"room_id"`
	}
	s.do(p, "create_room", people.Args{"content": o}, &created)
	s.until(p, "the new room", func(n *people.Note) bool { return n.Room == created.Room && n.Type == "m.room.history_visibility" })
	return created.Room
}

// join joins and waits until the client has synced the room, with its encryption if it has it.
func (s *scene) join(p *people.Person, room string, via ...*world.Server) {
	s.Helper()
	mark := p.Mark()
	var servers []string
	for _, v := range via {
		servers = append(servers, v.ServerName)
	}
	s.do(p, "join", people.Args{"room": room, "via": servers}, nil)
	s.after(p, mark, "the joined room", func(n *people.Note) bool {
		return (strings.HasPrefix(room, "#") || n.Room == room) && isState(n, "m.room.member", p.UserID) && n.Get("membership") == "join"
	})
}

// invited waits until somebody has an invitation.
func (s *scene) invited(p *people.Person, room string) {
	s.Helper()
	s.until(p, "the invitation", func(n *people.Note) bool { return n.Kind == "invite" && n.Room == room })
}

func isState(n *people.Note, typ, key string) bool {
	return n.Type == typ && n.StateKey != nil && *n.StateKey == key
}

// say sends a text.
func (s *scene) say(p *people.Person, room, text string) (event string) {
	s.Helper()
	var sent struct {
		Event string `json:"event_id"`
	}
	s.do(p, "send", people.Args{"room": room, "type": "m.room.message", "content": map[string]string{"msgtype": "m.text", "body": text}}, &sent)
	return sent.Event
}

// hears waits until somebody was shown a text.
func (s *scene) hears(p *people.Person, room, text string, secret bool) *people.Note {
	s.Helper()
	return s.until(p, fmt.Sprintf("%q", text), func(n *people.Note) bool {
		return n.Kind == "timeline" && n.Room == room && n.Type == "m.room.message" && n.Get("body") == text && n.Decrypted == secret
	})
}

// membership waits until somebody was shown another's membership of a room.
func (s *scene) membership(p *people.Person, mark int, room, user, membership string) {
	s.Helper()
	s.after(p, mark, user+" "+membership, func(n *people.Note) bool {
		return n.Room == room && isState(n, "m.room.member", user) && n.Get("membership") == membership
	})
}

// mixtures of kinds: who begins and who answers.
var mixtures = [][2]people.Kind{{people.Go, people.Go}, {people.Go, people.JS}, {people.JS, people.Go}, {people.JS, people.JS}}

// mixed plays once with each mixture of kinds.
func (s *scene) mixed(list [][2]people.Kind, f func(s *scene, first, second people.Kind)) {
	for _, kinds := range list {
		s.Run(fmt.Sprintf("%s and %s", kinds[0], kinds[1]), func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			f(&scene{T: t, World: s.World, ctx: ctx}, kinds[0], kinds[1])
		})
	}
}
