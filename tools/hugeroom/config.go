package hugeroom

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/signing"
)

// Config describes a room. [Largest] is the usual place to begin.
type Config struct {
	// Version is the room version: 10, 11 or 12.
	Version string
	// Members is the number of users with a membership: member events in the state.
	Members int
	// Left is how many of a hundred members have left: their membership took two events.
	Left int
	// Servers is the number of servers that the members are of. The first ones have most of them.
	Servers int
	// ACLs, PowerLevels and JoinRules are the numbers of such events in the history.
	ACLs, PowerLevels, JoinRules int
	// Seed makes another room.
	Seed uint64
	// Names gives the servers their names. They must differ. Nil: [ExampleName].
	Names func(i int) id.Server
	// Start is the time of the create event, in milliseconds since 1970. Zero: some time in 2023.
	Start int64
	// Literal is how many entries a state may have for the literal transcription of the specification to resolve it; what is
	// larger is resolved by package resolve. Zero: [DefaultLiteral].
	Literal int
}

// DefaultLiteral is a size of states at which a literal resolution takes a tenth of a second.
const DefaultLiteral = 10_000

// Largest is a room like the largest of the network.
func Largest() Config {
	return Config{Version: roomversion.Default, Members: 323_368, Left: 30, Servers: 10_000, ACLs: 713, PowerLevels: 22, JoinRules: 14, Seed: 1}
}

// Scaled is [Largest] with another number of members, and with the rest as much smaller, as far as a room can do without.
func Scaled(members int) Config {
	c := Largest()
	share := func(n, least int) int { return max(least, n*members/c.Members) }
	c.Servers, c.ACLs, c.PowerLevels, c.JoinRules = min(share(c.Servers, 12), members), share(c.ACLs, 5), share(c.PowerLevels, 4), share(c.JoinRules, 4)
	c.Members = members
	return c
}

// ExampleName is a name that leads nowhere.
func ExampleName(i int) id.Server { return id.Server(fmt.Sprintf("s%d.huge.example", i)) }

// LoopbackName returns names that are addresses of this machine, each its own, with the same port.
func LoopbackName(port int) func(i int) id.Server {
	return func(i int) id.Server {
		i += 257 // 127.16.1.1 is the first one
		return id.Server(fmt.Sprintf("127.%d.%d.%d:%d", 16+i>>16, i>>8&255, i&255, port))
	}
}

// maxServers is how many names LoopbackName has.
const maxServers = 200 << 16

func (c *Config) complete() error {
	if c.Names == nil {
		c.Names = ExampleName
	}
	if c.Start == 0 {
		c.Start = 1_700_000_000_000
	}
	if c.Literal == 0 {
		c.Literal = DefaultLiteral
	}
	var errs []error
	for _, f := range []struct {
		name              string
		have, least, most int
	}{
		{"members", c.Members, officials + 1, 10_000_000}, {"left", c.Left, 0, 90}, {"servers", c.Servers, 1, min(c.Members, maxServers)},
		{"ACLs", c.ACLs, 1, 1_000_000}, {"power levels", c.PowerLevels, 1, 1_000_000}, {"join rules", c.JoinRules, 1, 1_000_000},
	} {
		if f.have < f.least || f.have > f.most {
			errs = append(errs, fmt.Errorf("%s: %d, want %d to %d", f.name, f.have, f.least, f.most))
		}
	}
	rules, ok := roomversion.Get(c.Version)
	if !ok || rules.EventID != 3 || !rules.IntegerPowerLevels {
		errs = append(errs, fmt.Errorf("room version %q, want 10, 11 or 12", c.Version))
	}
	return errors.Join(errs...)
}

// KeyID names the signing key of each server.
const KeyID = "ed25519:huge"

// ServerKey is the signing key of a server: the same in every run.
func ServerKey(server id.Server) *signing.Key {
	seed := sha256.Sum256([]byte("hugeroom " + string(server)))
	key, err := signing.FromSeed(KeyID, seed[:])
	if err != nil {
		panic(err) // only for a seed of another length
	}
	return key
}
