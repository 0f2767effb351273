package people

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/tidwall/gjson"
)

// Note is something that a sync brought to a person.
type Note struct {
	// Kind is where it was: timeline, state, invite, knock, leave, ephemeral, presence, to_device, account_data,
	// devices, left_room, knocked_room, undecryptable, sync_ended.
	Kind      string          `json:"note"`
	Room      string          `json:"room"`
	Type      string          `json:"type"`
	Sender    string          `json:"sender"`
	Event     string          `json:"event"`
	StateKey  *string         `json:"state_key"`
	Content   json.RawMessage `json:"content"`
	Decrypted bool            `json:"decrypted"`
}

// Get returns a field of the content by its path, as "membership".
func (n *Note) Get(path string) string { return gjson.GetBytes(n.Content, path).String() }

func (n *Note) String() string {
	s := fmt.Sprintf("%s %s %s by %s", n.Kind, n.Type, n.Event, n.Sender)
	if n.StateKey != nil {
		s += fmt.Sprintf(" key %q", *n.StateKey)
	}
	return s + " " + string(n.Content[:min(len(n.Content), 200)])
}

// Person is one device of somebody.
type Person struct {
	host *Host
	as   string

	Base, Password string
	UserID         string `json:"user_id"`
	DeviceID       string `json:"device_id"`
	AccessToken    string `json:"access_token"`

	mu      sync.Mutex
	notes   []Note
	changed chan struct{} // closed and replaced when a note comes
}

func (h *Host) person() *Person {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := &Person{host: h, as: fmt.Sprintf("p%d", len(h.people)+1), changed: make(chan struct{})}
	h.people[p.as] = p
	return p
}

// Register makes an account at the homeserver with the stage m.login.dummy, and does not sync yet.
func (h *Host) Register(ctx context.Context, base, user, password string) (*Person, error) {
	return h.enter(ctx, "register", base, user, password)
}

// Login logs in with a password: a new device.
func (h *Host) Login(ctx context.Context, base, user, password string) (*Person, error) {
	return h.enter(ctx, "login", base, user, password)
}

func (h *Host) enter(ctx context.Context, how, base, user, password string) (*Person, error) {
	p := h.person()
	p.Base, p.Password = base, password
	return p, h.call(ctx, p.as, how, map[string]string{"base": base, "user": user, "password": password}, p)
}

// Kind returns which library the person uses.
func (p *Person) Kind() Kind { return p.host.Kind }

// Do carries out an operation of the library.
func (p *Person) Do(ctx context.Context, do string, in Args, out any) error {
	return p.host.call(ctx, p.as, do, in, out)
}

// Args are the arguments of operations; each takes those that it needs.
type Args map[string]any

func (p *Person) add(n Note) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notes = append(p.notes, n)
	close(p.changed)
	p.changed = make(chan struct{})
}

// Notes returns all notes so far.
func (p *Person) Notes() []Note {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.notes[:len(p.notes):len(p.notes)]
}

// Mark returns the number of notes so far: AfterMark(Mark(), ...) looks at later ones only.
func (p *Person) Mark() int { return len(p.Notes()) }

// Until waits for a note, past or to come, that fits.
func (p *Person) Until(ctx context.Context, what string, fits func(*Note) bool) (*Note, error) {
	return p.AfterMark(ctx, 0, what, fits)
}

// AfterMark is Until for the notes that came after a mark.
func (p *Person) AfterMark(ctx context.Context, mark int, what string, fits func(*Note) bool) (*Note, error) {
	for {
		p.mu.Lock()
		notes, changed := p.notes, p.changed
		p.mu.Unlock()
		for ; mark < len(notes); mark++ {
			if fits(&notes[mark]) {
				return &notes[mark], nil
			}
		}
		select {
		case <-changed:
		case <-p.host.ended:
			return nil, p.host.failure
		case <-ctx.Done():
			return nil, fmt.Errorf("%s (%s) did not see %s: %w; last seen:\n%s", p.UserID, p.Kind(), what, ctx.Err(), p.last(15))
		}
	}
}

func (p *Person) last(n int) string {
	notes := p.Notes()
	var b strings.Builder
	for i := max(0, len(notes)-n); i < len(notes); i++ {
		fmt.Fprintf(&b, "\t%s\n", notes[i].String())
	}
	return b.String()
}
