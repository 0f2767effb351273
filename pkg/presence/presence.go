// Package presence keeps who is online: in Redis, so that every worker sees the same, and on the bus, so that every
// worker hears of changes. It is never truth: when Redis is wiped, everybody is as far as is known offline until they
// do something.
package presence

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/protobuf/proto"

	"hanse/pkg/matrix/id"
	logv1 "hanse/proto/log/v1"
)

// The states (client-server API, "Presence"; busy is MSC3026).
const (
	Online      = "online"
	Unavailable = "unavailable"
	Offline     = "offline"
	Busy        = "busy"
)

const (
	// keep is how long a state is remembered after its last change.
	keep = 24 * time.Hour
	// ActiveFor is how long somebody counts as active after having done something.
	ActiveFor = 60 * time.Second
	// MaxStatus bounds a status message, in bytes.
	MaxStatus = 1024
)

// ErrUnknown is returned for a user of whom nothing is known.
var ErrUnknown = errors.New("presence unknown")

// Bus carries changes to the other workers.
type Bus interface {
	PublishPresence(*logv1.Presence) error
}

// Store is the presence of all users. It is safe for concurrent use.
type Store struct {
	redis redis.UniversalClient
	bus   Bus
}

// New returns the store that lies in a Redis.
func New(r redis.UniversalClient, b Bus) *Store { return &Store{redis: r, bus: b} }

// Valid reports whether s is a state that a client may set.
func Valid(s string) bool {
	return s == Online || s == Unavailable || s == Offline || s == Busy
}

func key(u id.User) string { return "hanse:presence:" + string(u) }

// Set stores a user's presence and tells all workers. p.UserId names the user.
func (s *Store) Set(ctx context.Context, p *logv1.Presence) error {
	raw, err := proto.Marshal(p)
	if err != nil {
		return err
	}
	stored := s.redis.Set(ctx, key(id.User(p.UserId)), raw, keep).Err()
	// Those who listen now hear of it even if Redis is away.
	if err := s.bus.PublishPresence(p); err != nil {
		return fmt.Errorf("publish presence: %w", err)
	}
	if stored != nil {
		return fmt.Errorf("store presence: %w", stored)
	}
	return nil
}

// Get returns a user's presence, or ErrUnknown.
func (s *Store) Get(ctx context.Context, u id.User) (*logv1.Presence, error) {
	raw, err := s.redis.Get(ctx, key(u)).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, ErrUnknown
	}
	if err != nil {
		return nil, fmt.Errorf("read presence: %w", err)
	}
	p := new(logv1.Presence)
	if err := proto.Unmarshal(raw, p); err != nil {
		return nil, fmt.Errorf("stored presence: %w", err)
	}
	return p, nil
}

// GetMany returns the presence of those of the users of whom something is known, with one request.
func (s *Store) GetMany(ctx context.Context, users []id.User) (map[id.User]*logv1.Presence, error) {
	if len(users) == 0 {
		return nil, nil
	}
	keys := make([]string, len(users))
	for i, u := range users {
		keys[i] = key(u)
	}
	values, err := s.redis.MGet(ctx, keys...).Result()
	if err != nil {
		return nil, fmt.Errorf("read presence: %w", err)
	}
	out := make(map[id.User]*logv1.Presence)
	for i, v := range values {
		text, ok := v.(string)
		if !ok {
			continue
		}
		p := new(logv1.Presence)
		if err := proto.Unmarshal([]byte(text), p); err == nil { // else somebody else's value: unknown
			out[users[i]] = p
		}
	}
	return out, nil
}
