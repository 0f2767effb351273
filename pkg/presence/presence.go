package presence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/protobuf/proto"

	"hanse/pkg/matrix/id"
	logv1 "hanse/proto/log/v1"
)

const (
	// kept is how long something is remembered after it was stored last.
	kept = 24 * time.Hour
	// MaxStatus bounds a status message, in bytes.
	MaxStatus = 1024

	// askTime bounds the wait for Redis, restTime is how long it is left alone after it did not answer.
	askTime  = 500 * time.Millisecond
	restTime = 2 * time.Second
	// attempts is how often a change is made anew because somebody else made one.
	attempts = 8
	// step is how many users are read at once.
	step = 500
)

// ErrUnknown is returned for a user of whom nothing is known.
var ErrUnknown = errors.New("presence unknown")

var (
	errResting = errors.New("no answer from Redis a moment ago")
	errBusy    = errors.New("others change it all the time")
)

// Bus carries changes to the other workers.
type Bus interface {
	PublishPresence(*logv1.Presence) error
}

// Store is the presence of all users. It is safe for concurrent use.
type Store struct {
	redis redis.UniversalClient
	bus   Bus
	rest  atomic.Int64 // Unix nanoseconds until which Redis is left alone
}

// New returns the store that lies in a Redis.
func New(r redis.UniversalClient, b Bus) *Store { return &Store{redis: r, bus: b} }

const prefix = "hanse:presence:"

func key(u id.User) string { return prefix + string(u) }

// swap stores ARGV[2] if what is stored is ARGV[1], for ARGV[3] milliseconds.
var swap = redis.NewScript(`
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then
	return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1`)

// Change changes what is known of a user, and tells all workers if that is news to anybody. heard is what the caller
// has heard last, for when Redis knows nothing; it may be nil. The answer is what is known then; it is not to be
// changed. With an error it is not in Redis, or not on the bus.
func (s *Store) Change(ctx context.Context, user id.User, heard *logv1.Presence, change Change) (*logv1.Presence, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTime) // a client that gives up is no failure of Redis
	defer cancel()
	for range attempts {
		now := time.Now()
		raw, old, err := s.read(ctx, user)
		if old == nil {
			old = remembered(user, heard, now)
		}
		p, tell := apply(old, change, now)
		if err == nil && raw != "" && proto.Equal(old, p) {
			return p, nil
		}
		stored := false
		if err == nil {
			stored, err = s.swap(ctx, user, raw, p)
		}
		if err == nil && !stored {
			continue
		}
		if tell || !sameDevices(old, p) {
			// Those who listen now hear of it even if Redis is away.
			p.Quiet = !tell
			err = errors.Join(err, s.bus.PublishPresence(p))
		}
		if err != nil {
			err = fmt.Errorf("presence: %w", err)
		}
		return p, err
	}
	return nil, errBusy
}

// remembered is what a change begins with that Redis does not know of. Whom nobody here has heard of lately may well be
// there still, and has some time to say so.
func remembered(user id.User, heard *logv1.Presence, now time.Time) *logv1.Presence {
	if heard == nil {
		return &logv1.Presence{UserId: string(user), Presence: Offline}
	}
	p := proto.CloneOf(heard)
	p.Quiet = false
	for _, d := range p.Devices {
		if d.UntilMs <= now.UnixMilli() {
			d.UntilMs = now.Add(SetFor).UnixMilli()
		}
	}
	return p
}

// apply returns what a change makes of something, and whether others are to be told.
func apply(old *logv1.Presence, change Change, now time.Time) (p *logv1.Presence, tell bool) {
	ms := now.UnixMilli()
	p = proto.CloneOf(old)
	change(p, now)
	settle(p, now)
	tell = !sameSeen(old, p) || p.Local && p.Presence != Offline && ms-p.ToldMs >= PingEvery.Milliseconds()
	if tell {
		p.ToldMs = ms
	}
	if !proto.Equal(old, p) {
		p.VersionMs = max(old.VersionMs+1, ms)
	}
	return p, tell
}

// read returns what Redis has of a user, nil if that is nothing that can be read, and its bytes.
func (s *Store) read(ctx context.Context, u id.User) (raw string, p *logv1.Presence, err error) {
	if time.Now().UnixNano() < s.rest.Load() {
		return "", nil, errResting
	}
	raw, err = s.redis.Get(ctx, key(u)).Result()
	if errors.Is(err, redis.Nil) {
		return "", nil, nil
	}
	if err != nil {
		return "", nil, s.failed(err)
	}
	return raw, parse(u, raw), nil
}

// parse reads what is stored of a user; somebody else's value is nothing.
func parse(u id.User, raw string) *logv1.Presence {
	p := new(logv1.Presence)
	if proto.Unmarshal([]byte(raw), p) != nil || p.UserId != string(u) || !Valid(p.Presence) {
		return nil
	}
	p.Quiet = false
	return p
}

func (s *Store) swap(ctx context.Context, u id.User, old string, p *logv1.Presence) (bool, error) {
	raw, err := proto.Marshal(p)
	if err != nil {
		return false, err
	}
	n, err := swap.Run(ctx, s.redis, []string{key(u)}, old, raw, kept.Milliseconds()).Int()
	if err != nil {
		return false, s.failed(err)
	}
	return n == 1, nil
}

func (s *Store) failed(err error) error {
	s.rest.Store(time.Now().Add(restTime).UnixNano())
	return err
}

// Get returns a user's presence, or ErrUnknown.
func (s *Store) Get(ctx context.Context, u id.User) (*logv1.Presence, error) {
	_, p, err := s.read(ctx, u)
	if err != nil {
		return nil, fmt.Errorf("read presence: %w", err)
	}
	if p == nil {
		return nil, ErrUnknown
	}
	settle(p, time.Now())
	return p, nil
}

// GetMany returns the presence of those of the users of whom something is known.
func (s *Store) GetMany(ctx context.Context, users []id.User) (map[id.User]*logv1.Presence, error) {
	out := make(map[id.User]*logv1.Presence)
	now := time.Now()
	for some := range slices.Chunk(users, step) {
		keys := make([]string, len(some))
		for i, u := range some {
			keys[i] = key(u)
		}
		values, err := s.redis.MGet(ctx, keys...).Result()
		if err != nil {
			return nil, fmt.Errorf("read presence: %w", err)
		}
		for i, v := range values {
			raw, _ := v.(string)
			if p := parse(some[i], raw); p != nil {
				settle(p, now)
				out[some[i]] = p
			}
		}
	}
	return out, nil
}

// Each calls each for the presence of all known users, at most limit. A user whose presence changes meanwhile may be
// given as before or as after, or twice.
func (s *Store) Each(ctx context.Context, limit int, each func(*logv1.Presence)) error {
	var cursor uint64
	for {
		keys, next, err := s.redis.Scan(ctx, cursor, prefix+"*", step).Result()
		if err != nil {
			return fmt.Errorf("read presence: %w", err)
		}
		users := make([]id.User, len(keys))
		for i, k := range keys {
			users[i] = id.User(strings.TrimPrefix(k, prefix))
		}
		found, err := s.GetMany(ctx, users)
		if err != nil {
			return err
		}
		for _, p := range found {
			if limit--; limit < 0 {
				return nil
			}
			each(p)
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}
