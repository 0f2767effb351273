package hugeroom

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"

	"golang.org/x/sync/errgroup"

	"hanse/pkg/authgraph"
	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/state"
)

const (
	typeCreate      = "m.room.create"
	typeMember      = "m.room.member"
	typePowerLevels = "m.room.power_levels"
	typeJoinRules   = "m.room.join_rules"
	typeServerACL   = "m.room.server_acl"
	typeTopic       = "m.room.topic"
	typeMessage     = "m.room.message"
)

const (
	officials = 8  // members with power, the creator among them
	admins    = 4  // of them, those who may change power levels
	crowdSize = 64 // members that patterns use at most
)

// New makes a room with its history.
func New(cfg Config) (*Room, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	rules, _ := roomversion.Get(cfg.Version)
	total := cfg.Members + cfg.Members*cfg.Left/100 + cfg.ACLs + cfg.PowerLevels + cfg.JoinRules + 8
	r := &Room{Rules: rules, cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x68756765)), now: cfg.Start,
		events: make([]*event.PDU, 1, total), byID: make(map[id.Event]int, total), ends: make(map[int]bool),
		after: make(map[int]state.Map), past: make(map[int]state.Map), merged: make(map[string]state.Map), graph: authgraph.New(), keys: make(map[id.Server]*signing.Key)}
	h := &history{Room: r, state: make(map[event.Tuple]id.Event, cfg.Members+16), work: make(chan signJob, 1024)}
	return r, h.make()
}

// history makes the events before all forks: hashed one after the other, signed by many.
type history struct {
	*Room
	state map[event.Tuple]id.Event
	last  id.Event
	depth int64
	work  chan signJob

	acls, levels, rules int
	open                bool
	left                []id.User // members who will leave
}

type signJob struct {
	at  **event.PDU // its place: room for all was made, so the slice does not move
	u   *event.Unsigned
	key *signing.Key
}

func (h *history) make() error {
	var signers errgroup.Group
	for range runtime.GOMAXPROCS(0) {
		signers.Go(h.sign)
	}
	err := h.write()
	close(h.work)
	if failed := signers.Wait(); failed != nil {
		return failed
	}
	if err != nil {
		return err
	}
	h.line = h.Len()
	h.ends = map[int]bool{h.line: true}
	return nil
}

func (h *history) sign() (failed error) {
	for job := range h.work { // to the end, so that nobody waits for a signer that gave up
		pdu, err := job.u.Sign(job.key)
		if err != nil {
			failed = err
			continue
		}
		*job.at = pdu
	}
	return failed
}

// send appends one event to the line.
func (h *history) send(a Action) error {
	if len(h.events) == cap(h.events) {
		return fmt.Errorf("the history has more than the expected %d events", cap(h.events)-1)
	}
	d := event.Draft{RoomID: h.ID, Type: a.Type, StateKey: a.StateKey, Sender: a.Sender, Content: a.Content, Depth: h.depth + 1, OriginServerTS: h.now}
	if h.last != "" {
		d.PrevEvents = []id.Event{h.last}
	}
	for _, k := range auth.NeededByDraft(&d, h.Rules) {
		if e, ok := h.state[k]; ok {
			d.AuthEvents = append(d.AuthEvents, e)
		}
	}
	server := a.Sender.Server()
	u, err := event.Hash(d, h.Rules, server)
	if err != nil {
		return fmt.Errorf("%s of %s: %w", a.Type, a.Sender, err)
	}
	n := len(h.events)
	h.events = append(h.events, nil)
	h.last, h.depth, h.byID[u.ID()] = u.ID(), d.Depth, n
	h.now += 1 + int64(h.rng.IntN(1000))
	if a.StateKey != nil {
		h.state[event.Tuple{Type: a.Type, StateKey: *a.StateKey}] = u.ID()
	}
	h.work <- signJob{&h.events[n], u, h.Key(server)}
	return nil
}

// write makes the events. Each kind comes evenly among the joins.
func (h *history) write() error {
	if err := h.begin(); err != nil {
		return err
	}
	zipf := rand.NewZipf(h.rng, 1.3, 20, uint64(h.cfg.Servers-1))
	for i := officials; i < h.cfg.Members; i++ {
		server := i
		if i >= h.cfg.Servers { // each server has somebody
			server = int(zipf.Uint64())
		}
		user := id.NewUser("u"+strconv.Itoa(i), h.cfg.Names(server))
		if err := h.send(member(user, user, "join", "User "+strconv.Itoa(i))); err != nil {
			return err
		}
		if i > officials && i*h.cfg.Left/100 != (i+1)*h.cfg.Left/100 { // somebody stays in any case
			h.left = append(h.left, user)
		} else if len(h.crowd) < crowdSize {
			h.crowd = append(h.crowd, user)
		}
		if len(h.left) > 100 {
			if err := h.leave(h.rng.IntN(len(h.left))); err != nil {
				return err
			}
		}
		if err := h.govern(i + 1); err != nil {
			return err
		}
	}
	for len(h.left) > 0 {
		if err := h.leave(len(h.left) - 1); err != nil {
			return err
		}
	}
	return nil
}

func (h *history) leave(i int) error {
	user := h.left[i]
	h.left[i] = h.left[len(h.left)-1]
	h.left = h.left[:len(h.left)-1]
	return h.send(member(user, user, "leave", ""))
}

// begin creates the room and lets those in who will have power.
func (h *history) begin() error {
	for i := range officials {
		h.officers = append(h.officers, id.NewUser("officer"+strconv.Itoa(i), h.cfg.Names(i%h.cfg.Servers)))
	}
	creator := h.Creator()
	content := map[string]any{"room_version": h.cfg.Version}
	if !h.Rules.ImplicitCreator {
		content["creator"] = creator
	}
	if !h.Rules.RoomIDIsCreateHash {
		h.ID = id.Room("!huge" + strconv.FormatUint(h.cfg.Seed, 10) + ":" + string(creator.Server()))
	}
	if err := h.send(stateOf(creator, typeCreate, "", content)); err != nil {
		return err
	}
	if h.Rules.RoomIDIsCreateHash {
		h.ID = id.Room("!" + string(h.last[1:]))
	}
	if err := h.send(member(creator, creator, "join", "Creator")); err != nil {
		return err
	}
	if err := h.govern(0); err != nil {
		return err
	}
	for _, user := range h.officers[1:] {
		if err := h.send(member(user, user, "join", user.Localpart())); err != nil {
			return err
		}
	}
	return nil
}

// govern sends what is due of power levels, join rules and ACLs once so many have joined.
func (h *history) govern(joined int) error {
	due := func(all int) int { return 1 + (all-1)*joined/h.cfg.Members }
	for ; h.levels < due(h.cfg.PowerLevels); h.levels++ {
		if err := h.send(stateOf(h.Creator(), typePowerLevels, "", h.PowerLevels(h.levels))); err != nil {
			return err
		}
	}
	// The rule is changed there and back at once, so that others may join.
	for wanted := due(h.cfg.JoinRules); h.rules < wanted; {
		rule := "public"
		if h.open && h.rules+1 < h.cfg.JoinRules {
			rule = "invite"
		}
		if err := h.send(stateOf(h.Creator(), typeJoinRules, "", map[string]any{"join_rule": rule, "org.example.n": h.rules})); err != nil {
			return err
		}
		h.rules++
		if h.open = rule == "public"; !h.open {
			wanted = max(wanted, h.rules+1)
		}
	}
	for ; h.acls < due(h.cfg.ACLs); h.acls++ {
		if err := h.send(stateOf(h.officers[h.acls%admins*min(1, joined)], typeServerACL, "", ACL(h.acls))); err != nil {
			return err
		}
	}
	return nil
}

// PowerLevels is the content of the n-th power levels event: its officers keep their power, whatever n is.
func (r *Room) PowerLevels(n int) map[string]any {
	users := map[id.User]int{}
	for i, u := range r.officers {
		switch {
		case i == 0 && r.Rules.PrivilegedCreators:
		case i < admins:
			users[u] = 100
		default:
			users[u] = 50
		}
	}
	return map[string]any{
		"users": users, "users_default": 0, "events_default": 0, "state_default": 50, "ban": 50, "kick": 50, "redact": 50, "invite": 0,
		"events": map[string]int{typePowerLevels: 100, typeServerACL: 100, typeJoinRules: 100, "org.example.level" + strconv.Itoa(n): 50},
	}
}

// maxDenied bounds the length of the lists of ACL.
const maxDenied = 200

// ACL is the content of the n-th server ACL: everybody is allowed but some that do not exist, more each time.
func ACL(n int) map[string]any {
	deny := []string{}
	for i := max(0, n-maxDenied); i < n; i++ {
		deny = append(deny, fmt.Sprintf("*.evil%d.example", i))
	}
	return map[string]any{"allow": []string{"*"}, "deny": deny, "allow_ip_literals": true}
}

// Action is what somebody sends.
type Action struct {
	Sender   id.User
	Type     string
	StateKey *string // nil: no state
	Content  json.RawMessage
}

func stateOf(sender id.User, typ, key string, content any) Action {
	raw, err := json.Marshal(content)
	if err != nil {
		panic(err) // contents are this package's own
	}
	return Action{sender, typ, &key, raw}
}

func member(sender, target id.User, membership, name string) Action {
	content := map[string]string{"membership": membership}
	if name != "" {
		content["displayname"] = name
	}
	return stateOf(sender, typeMember, string(target), content)
}

func message(sender id.User, text string) Action {
	raw, err := json.Marshal(map[string]string{"msgtype": "m.text", "body": text})
	if err != nil {
		panic(err) // two strings
	}
	return Action{Sender: sender, Type: typeMessage, Content: raw}
}
