// Package mxtest is a homeserver of a few hundred lines, in memory, for tests of
// clients and of the load generator: it registers, logs in, creates and joins
// public rooms, sends idempotently, syncs with long polls and limited timelines,
// and pages history. It knows no state, power or federation.
//
// Its answers can be damaged on purpose (see [Server.Damage]) so that a test can
// show that a checker finds the damage.
package mxtest

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// Secret is the registration secret of every Server.
const Secret = "mxtest"

// TimelineLimit is how many events a sync shows of a room at most.
const TimelineLimit = 20

// Server is a running homeserver.
type Server struct {
	URL string

	mu     sync.Mutex
	users  map[string]string // name → password
	tokens map[string]string // token → user id
	rooms  map[string]*room
	log    []*event // all rooms, in order; a position is an index + 1
	txns   map[string]string
	nonces map[string]bool
	wake   chan struct{} // closed at the next change
	n      int

	// damage, if set, changes what a sync shows a user of a room.
	damage func(user string, events []map[string]any) []map[string]any
	// refuse, if positive, is how many requests are answered with 429 first.
	refuse int
	// lose, if positive, is how many sends are done but not answered.
	lose int
}

type room struct {
	id      string
	members map[string]int // user → position at which it joined
}

type event struct {
	room string
	json map[string]any
}

// New starts a server for the length of a test.
func New(t testing.TB) *Server {
	s := &Server{
		users: map[string]string{}, tokens: map[string]string{}, rooms: map[string]*room{},
		txns: map[string]string{}, nonces: map[string]bool{}, wake: make(chan struct{}),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /_matrix/client/versions", s.versions)
	mux.HandleFunc("GET /_synapse/admin/v1/register", s.nonce)
	mux.HandleFunc("POST /_synapse/admin/v1/register", s.registerShared)
	mux.HandleFunc("POST /_matrix/client/v3/register", s.register)
	mux.HandleFunc("POST /_matrix/client/v3/login", s.login)
	mux.HandleFunc("GET /_matrix/client/v3/account/whoami", s.authed(s.whoami))
	mux.HandleFunc("POST /_matrix/client/v3/createRoom", s.authed(s.createRoom))
	mux.HandleFunc("POST /_matrix/client/v3/join/{room}", s.authed(s.join))
	mux.HandleFunc("GET /_matrix/client/v3/rooms/{room}/joined_members", s.authed(s.joinedMembers))
	mux.HandleFunc("GET /_matrix/client/v3/rooms/{room}/messages", s.authed(s.messages))
	mux.HandleFunc("PUT /_matrix/client/v3/rooms/{room}/send/{type}/{txn}", s.authed(s.send))
	mux.HandleFunc("GET /_matrix/client/v3/sync", s.authed(s.sync))
	srv := httptest.NewServer(s.gate(mux))
	t.Cleanup(srv.CloseClientConnections)
	t.Cleanup(func() { go srv.Close() }) // polls may still be open
	s.URL = srv.URL
	return s
}

// Damage makes syncs show what f returns of a room's new events.
func (s *Server) Damage(f func(user string, events []map[string]any) []map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.damage = f
}

// Refuse answers the next n requests with 429.
func (s *Server) Refuse(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = n
}

// LoseAnswers does the next n sends without answering them.
func (s *Server) LoseAnswers(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lose = n
}

// gate refuses requests while Refuse says so.
func (s *Server) gate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		refuse := s.refuse > 0
		if refuse {
			s.refuse--
		}
		s.mu.Unlock()
		if refuse {
			answer(w, http.StatusTooManyRequests, map[string]any{"errcode": "M_LIMIT_EXCEEDED", "error": "later", "retry_after_ms": 1})
			return
		}
		next.ServeHTTP(w, r)
	})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		return // the client went away
	}
}

func refusal(w http.ResponseWriter, status int, code string) {
	answer(w, status, map[string]string{"errcode": code, "error": code})
}

func read(w http.ResponseWriter, r *http.Request, v any) bool {
	if err := json.NewDecoder(r.Body).Decode(v); err != nil {
		refusal(w, http.StatusBadRequest, "M_NOT_JSON")
		return false
	}
	return true
}

type handler func(w http.ResponseWriter, r *http.Request, user string)

func (s *Server) authed(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var token string
		if _, err := fmt.Sscanf(r.Header.Get("Authorization"), "Bearer %s", &token); err != nil {
			refusal(w, http.StatusUnauthorized, "M_MISSING_TOKEN")
			return
		}
		s.mu.Lock()
		user := s.tokens[token]
		s.mu.Unlock()
		if user == "" {
			refusal(w, http.StatusUnauthorized, "M_UNKNOWN_TOKEN")
			return
		}
		h(w, r, user)
	}
}

func (s *Server) versions(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]any{"versions": []string{"v1.11"}})
}

func (s *Server) nonce(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.next("nonce")
	s.nonces[n] = true
	answer(w, http.StatusOK, map[string]string{"nonce": n})
}

func (s *Server) next(prefix string) string {
	s.n++
	return fmt.Sprintf("%s%d", prefix, s.n)
}

func (s *Server) registerShared(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Nonce, Username, Password, Mac string
	}
	if !read(w, r, &in) {
		return
	}
	mac := hmac.New(sha1.New, []byte(Secret))
	fmt.Fprintf(mac, "%s\x00%s\x00%s\x00notadmin", in.Nonce, in.Username, in.Password)
	s.mu.Lock()
	fresh := s.nonces[in.Nonce]
	delete(s.nonces, in.Nonce)
	s.mu.Unlock()
	if !fresh || hex.EncodeToString(mac.Sum(nil)) != in.Mac {
		refusal(w, http.StatusForbidden, "M_FORBIDDEN")
		return
	}
	s.create(w, in.Username, in.Password)
}

func (s *Server) register(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Username, Password string
		Auth               struct{ Type, Session string }
	}
	if !read(w, r, &in) {
		return
	}
	if in.Auth.Type != "m.login.dummy" || in.Auth.Session == "" {
		answer(w, http.StatusUnauthorized, map[string]any{
			"session": "s", "params": map[string]any{},
			"flows": []any{
				map[string]any{"stages": []string{"m.login.recaptcha"}},
				map[string]any{"stages": []string{"m.login.dummy"}},
			},
		})
		return
	}
	s.create(w, in.Username, in.Password)
}

func (s *Server) create(w http.ResponseWriter, name, password string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.users[name]; ok {
		refusal(w, http.StatusBadRequest, "M_USER_IN_USE")
		return
	}
	s.users[name] = password
	answer(w, http.StatusOK, s.session(name))
}

func (s *Server) session(name string) map[string]string {
	token := s.next("token")
	s.tokens[token] = "@" + name + ":test"
	return map[string]string{"user_id": "@" + name + ":test", "access_token": token, "device_id": s.next("DEV")}
}

func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Password   string
		Identifier struct{ User string }
	}
	if !read(w, r, &in) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if want, ok := s.users[in.Identifier.User]; !ok || want != in.Password {
		refusal(w, http.StatusForbidden, "M_FORBIDDEN")
		return
	}
	answer(w, http.StatusOK, s.session(in.Identifier.User))
}

func (s *Server) whoami(w http.ResponseWriter, _ *http.Request, user string) {
	answer(w, http.StatusOK, map[string]string{"user_id": user})
}
