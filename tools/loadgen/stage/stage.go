// Package stage sets up what a scenario needs before it is measured: accounts,
// and rooms with members. What was set up is kept in a state file, by server, so
// that the next run finds it.
package stage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"hanse/tools/mxclient"
)

// Config says how accounts are made.
type Config struct {
	Server      string // key in the state file
	Secret      string // registration secret; empty: dummy registration
	Prefix      string // of user names
	Password    string
	File        string // state file; empty: none
	Concurrency int    // requests at a time while setting up
	Progress    func(format string, args ...any)
}

// Stage makes accounts and rooms. Its methods are not for concurrent use.
type Stage struct {
	conf   Config
	client *mxclient.Client
	mu     sync.Mutex
	state  map[string]*server // by Config.Server
	here   *server
	saved  time.Time
}

type server struct {
	Users map[string]mxclient.Session `json:"users"`
	Rooms map[string]*Room            `json:"rooms"`
}

// Room is a room that was set up.
type Room struct {
	ID     string `json:"id"`
	Joined int    `json:"joined"` // how many of its pool, from the first
}

// Open reads the state file and drops what it has of a server that was reset.
func Open(ctx context.Context, client *mxclient.Client, conf Config) (*Stage, error) {
	if conf.Concurrency == 0 {
		conf.Concurrency = 8
	}
	s := &Stage{conf: conf, client: client, state: map[string]*server{}}
	if conf.File != "" {
		raw, err := os.ReadFile(conf.File)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, fmt.Errorf("state file: %w", err)
		default:
			if err := json.Unmarshal(raw, &s.state); err != nil {
				return nil, fmt.Errorf("state file %s: %w", conf.File, err)
			}
		}
	}
	s.here = s.state[conf.Server]
	if s.here == nil {
		s.reset()
	}
	for _, u := range s.here.Users {
		_, _, err := client.As(u).Whoami(ctx)
		if mxclient.IsCode(err, "M_UNKNOWN_TOKEN") {
			s.progress("the server does not know the accounts of %s: starting afresh", conf.File)
			s.reset()
			err = nil
		}
		if err != nil {
			return nil, fmt.Errorf("check a known account: %w", err)
		}
		break
	}
	return s, nil
}

func (s *Stage) reset() {
	s.here = &server{Users: map[string]mxclient.Session{}, Rooms: map[string]*Room{}}
	s.state[s.conf.Server] = s.here
}

func (s *Stage) progress(format string, args ...any) {
	if s.conf.Progress != nil {
		s.conf.Progress(format, args...)
	}
}

// Save writes the state file.
func (s *Stage) Save() error {
	if s.conf.File == "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	raw, err := json.Marshal(s.state)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(s.conf.File), ".loadgen-*")
	if err != nil {
		return fmt.Errorf("state file: %w", err)
	}
	_, err = tmp.Write(raw)
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), s.conf.File)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("state file: %w", err), os.Remove(tmp.Name()))
	}
	s.saved = time.Now()
	return nil
}

// Name is the user name of a pool's nth account.
func (s *Stage) Name(pool string, n int) string {
	return fmt.Sprintf("%s-%s-%d", s.conf.Prefix, pool, n)
}

// Users returns the first n accounts of a pool, registering those that are not
// there yet.
func (s *Stage) Users(ctx context.Context, pool string, n int) ([]*mxclient.Client, error) {
	out := make([]*mxclient.Client, n)
	missing := 0
	for i := range out {
		if u, ok := s.here.Users[s.Name(pool, i)]; ok {
			out[i] = s.client.As(u)
		} else {
			missing++
		}
	}
	if missing == 0 {
		return out, nil
	}
	s.progress("registering %d accounts", missing)
	var g errgroup.Group
	g.SetLimit(s.conf.Concurrency)
	for i := range out {
		if out[i] != nil {
			continue
		}
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			name := s.Name(pool, i)
			c, err := s.account(ctx, name)
			if err != nil {
				return fmt.Errorf("account %s: %w", name, err)
			}
			s.mu.Lock()
			s.here.Users[name] = c.Session
			s.mu.Unlock()
			out[i] = c
			return nil
		})
	}
	err := g.Wait()
	return out, errors.Join(err, s.Save()) // what was made is kept
}

// account registers, or logs in where the account exists already.
func (s *Stage) account(ctx context.Context, name string) (*mxclient.Client, error) {
	c, err := s.Register(ctx, name)
	if mxclient.IsCode(err, "M_USER_IN_USE") {
		return s.client.Login(ctx, name, s.conf.Password, "")
	}
	return c, err
}

// Register registers an account that is not kept.
func (s *Stage) Register(ctx context.Context, name string) (*mxclient.Client, error) {
	if s.conf.Secret != "" {
		return s.client.RegisterShared(ctx, s.conf.Secret, name, s.conf.Password, false)
	}
	return s.client.Register(ctx, name, s.conf.Password)
}

// Password is that of every account.
func (s *Stage) Password() string { return s.conf.Password }

// Room returns a room in which all of users are, made by the first of them. The
// key stands for the room and its pool in the state file.
func (s *Stage) Room(ctx context.Context, key string, users []*mxclient.Client) (string, error) {
	r := s.here.Rooms[key]
	if r == nil {
		id, err := users[0].CreateRoom(ctx, mxclient.NewRoom{Preset: "public_chat", Name: key})
		if err != nil {
			return "", fmt.Errorf("room %s: %w", key, err)
		}
		r = &Room{ID: id, Joined: 1}
		s.here.Rooms[key] = r
	}
	if r.Joined >= len(users) {
		return r.ID, nil
	}
	if len(users)-r.Joined >= 100 {
		s.progress("joining %d accounts to %s", len(users)-r.Joined, key)
	}
	err := s.fill(ctx, r, users)
	if err != nil {
		err = fmt.Errorf("fill room %s: %w", key, err)
	}
	if err != nil || time.Since(s.saved) > 5*time.Second {
		err = errors.Join(err, s.Save())
	}
	return r.ID, err
}

// fill joins in chunks, so that Joined is right after a failure.
func (s *Stage) fill(ctx context.Context, r *Room, users []*mxclient.Client) error {
	const chunk = 200
	for r.Joined < len(users) {
		end := min(r.Joined+chunk, len(users))
		var g errgroup.Group
		g.SetLimit(s.conf.Concurrency)
		for _, u := range users[r.Joined:end] {
			g.Go(func() error {
				_, err := u.Join(ctx, r.ID)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		r.Joined = end
	}
	return nil
}
