package sync

import (
	"errors"
	"time"
)

// Config is what an operator may set.
type Config struct {
	// Tail is the budget for the recent log of the rooms of connected users, in bytes.
	Tail int64 `doc:"Bytes of recent room log that a worker keeps for connected users."`
	// Openings is the budget for what first syncs tell of rooms, in bytes.
	Openings int64 `doc:"Bytes that a worker keeps of what first syncs are told of rooms, which is the same for all."`
	// Answers is the budget for first answers that are made and sent, in bytes.
	Answers int64 `doc:"Bytes of first syncs that a worker makes and sends at a time; others wait."`
	// Idle is for how long a user who does not poll is kept in memory.
	Idle time.Duration `doc:"How long a user who does not poll stays in a worker's memory."`
	// Presence can be turned off.
	Presence bool `doc:"Tell users who is online."`
	// PresenceTimeout is for how long a user who does not poll counts as online.
	PresenceTimeout time.Duration `doc:"How long a user who does not poll counts as online."`
}

// Defaults suit a small server.
func Defaults() Config {
	return Config{Tail: 64 << 20, Openings: 32 << 20, Answers: 256 << 20, Idle: 2 * time.Minute, Presence: true, PresenceTimeout: 30 * time.Second}
}

// Validate says what is wrong.
func (c Config) Validate() error {
	if c.Tail < 1<<20 {
		return errors.New("tail: at least 1 MiB")
	}
	if c.Openings < 1<<20 {
		return errors.New("openings: at least 1 MiB")
	}
	if c.Answers < 8*firstCost {
		return errors.New("answers: at least 32 MiB")
	}
	if c.Idle <= 0 || c.PresenceTimeout <= 0 {
		return errors.New("idle and presence_timeout must be positive")
	}
	return nil
}
