// Package password hashes passwords with argon2id (RFC 9106) and checks them.
//
// A hash is a PHC string, "$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>": it carries its own cost, so that the cost
// can be changed at any time; NeedsRehash says which hashes are of the past. Each hashing takes its memory for its
// whole duration, so at most Config.Parallel run at once; the others wait, or give up with their context.
package password

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/sync/semaphore"
)

const (
	saltLen = 16
	hashLen = 32
	// MaxLen bounds passwords: argon2 reads all of them before the memory limit takes hold.
	MaxLen = 512
)

// Bounds of the cost of a stored hash: what is beyond was not written by us, and might take all memory.
const (
	maxMemoryKiB  = 1 << 20
	maxIterations = 64
	maxThreads    = 16
)

// ErrTooLong is returned for passwords of more than MaxLen bytes.
var ErrTooLong = fmt.Errorf("the password is longer than %d bytes", MaxLen)

// ErrMalformed is returned for a stored hash that is not one of argon2id.
var ErrMalformed = errors.New("malformed password hash")

// Config is the cost of a hash.
type Config struct {
	MemoryKiB  uint32 `yaml:"memory_kib" doc:"Memory that hashing one password takes."`
	Iterations uint32 `yaml:"iterations" doc:"Passes over the memory."`
	Threads    uint8  `yaml:"threads" doc:"Threads that hash one password."`
	Parallel   int    `yaml:"parallel" doc:"Passwords hashed at once by one process. 0: one for each CPU."`
}

// Defaults returns the second recommendation of the OWASP password storage cheat sheet: 19 MiB, two passes.
func Defaults() Config { return Config{MemoryKiB: 19456, Iterations: 2, Threads: 1} }

// Validate reports costs that argon2id does not allow (RFC 9106, section 3.1) or that no machine bears.
func (c *Config) Validate() error {
	var errs []error
	if c.Threads < 1 || c.Threads > maxThreads {
		errs = append(errs, fmt.Errorf("threads: %d is not between 1 and %d", c.Threads, maxThreads))
	}
	if c.MemoryKiB < 8*uint32(max(c.Threads, 1)) || c.MemoryKiB > maxMemoryKiB {
		errs = append(errs, fmt.Errorf("memory_kib: %d is not between 8 for each thread and %d", c.MemoryKiB, maxMemoryKiB))
	}
	if c.Iterations < 1 || c.Iterations > maxIterations {
		errs = append(errs, fmt.Errorf("iterations: %d is not between 1 and %d", c.Iterations, maxIterations))
	}
	if c.Parallel < 0 {
		errs = append(errs, errors.New("parallel: is negative"))
	}
	return errors.Join(errs...)
}

// Hasher hashes and checks passwords. It is safe for concurrent use.
type Hasher struct {
	cfg  Config
	busy *semaphore.Weighted
}

// New returns a hasher of the given cost, which must be valid.
func New(cfg Config) *Hasher {
	if cfg.Parallel == 0 {
		cfg.Parallel = runtime.GOMAXPROCS(0)
	}
	return &Hasher{cfg: cfg, busy: semaphore.NewWeighted(int64(cfg.Parallel))}
}

// Hash returns the hash of a password, with a salt of its own.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	p := params{memory: h.cfg.MemoryKiB, iterations: h.cfg.Iterations, threads: h.cfg.Threads, salt: make([]byte, saltLen)}
	if _, err := rand.Read(p.salt); err != nil {
		return "", err
	}
	sum, err := h.run(ctx, password, p, hashLen)
	if err != nil {
		return "", err
	}
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s",
		argon2.Version, p.memory, p.iterations, p.threads, b64(p.salt), b64(sum)), nil
}

// Check reports whether the password is the one that was hashed. Pass an empty hash for an account that has none or
// does not exist: it takes as long as a wrong password, so that nobody learns which accounts exist.
func (h *Hasher) Check(ctx context.Context, password, hash string) (bool, error) {
	if hash == "" {
		p := params{memory: h.cfg.MemoryKiB, iterations: h.cfg.Iterations, threads: h.cfg.Threads, salt: make([]byte, saltLen)}
		_, err := h.run(ctx, password, p, hashLen)
		return false, err
	}
	p, want, err := parse(hash)
	if err != nil {
		return false, err
	}
	sum, err := h.run(ctx, password, p, uint32(len(want)))
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(sum, want) == 1, nil
}

// NeedsRehash reports whether a hash has another cost than the configured one: hash the password anew when its
// owner next shows it.
func (h *Hasher) NeedsRehash(hash string) bool {
	p, _, err := parse(hash)
	return err != nil || p.memory != h.cfg.MemoryKiB || p.iterations != h.cfg.Iterations || p.threads != h.cfg.Threads
}

func (h *Hasher) run(ctx context.Context, password string, p params, n uint32) ([]byte, error) {
	if len(password) > MaxLen {
		return nil, ErrTooLong
	}
	if err := h.busy.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("hash password: %w", err)
	}
	defer h.busy.Release(1)
	return argon2.IDKey([]byte(password), p.salt, p.iterations, p.memory, p.threads, n), nil
}

type params struct {
	memory, iterations uint32
	threads            uint8
	salt               []byte
}

func parse(hash string) (p params, sum []byte, err error) {
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v=19" {
		return p, nil, ErrMalformed
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.memory, &p.iterations, &p.threads); err != nil {
		return p, nil, ErrMalformed
	}
	if p.iterations < 1 || p.iterations > maxIterations || p.threads < 1 || p.threads > maxThreads ||
		p.memory < 8*uint32(p.threads) || p.memory > maxMemoryKiB {
		return p, nil, ErrMalformed
	}
	p.salt, err = base64.RawStdEncoding.DecodeString(parts[4])
	if err != nil || len(p.salt) < 8 {
		return p, nil, ErrMalformed
	}
	sum, err = base64.RawStdEncoding.DecodeString(parts[5])
	if err != nil || len(sum) < 16 || len(sum) > 128 {
		return p, nil, ErrMalformed
	}
	return p, sum, nil
}
