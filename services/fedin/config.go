package fedin

import (
	"errors"
	"fmt"
	"time"
)

// Config is what an operator sets for the federation API.
type Config struct {
	Transactions     int           `yaml:"transactions" doc:"How many transactions of other servers a worker takes at a time."`
	TransactionRooms int           `yaml:"transaction_rooms" doc:"How many rooms of one transaction are worked on at a time."`
	TransactionTime  time.Duration `yaml:"transaction_time" doc:"How long a transaction may take before its sender has to send it again."`
	Reads            int           `yaml:"reads" doc:"How many expensive reads (state, backfill, joins) one server may have under way at a time."`
	KeyTTL           time.Duration `yaml:"key_ttl" doc:"How long other servers may trust our signing keys without asking again."`
	PublicRooms      bool          `yaml:"public_rooms" doc:"Whether other servers may see the directory of published rooms."`
	KeepTransactions time.Duration `yaml:"keep_transactions" doc:"How long the answers to transactions are kept for senders that repeat them."`
}

// Defaults are what a small server works with.
func Defaults() Config {
	return Config{
		Transactions: 64, TransactionRooms: 8, TransactionTime: 5 * time.Minute, Reads: 4,
		KeyTTL: 24 * time.Hour, PublicRooms: true, KeepTransactions: 72 * time.Hour,
	}
}

// Validate reports what is wrong with the configuration.
func (c *Config) Validate() error {
	var errs []error
	for _, n := range []struct {
		name string
		n    int
	}{{"transactions", c.Transactions}, {"transaction_rooms", c.TransactionRooms}, {"reads", c.Reads}} {
		if n.n <= 0 {
			errs = append(errs, fmt.Errorf("%s: must be positive", n.name))
		}
	}
	if c.TransactionTime < time.Second {
		errs = append(errs, errors.New("transaction_time: must be a second at least"))
	}
	// "Servers MUST use the lesser of this field and 7 days into the future" (Publishing Keys).
	if c.KeyTTL < time.Hour || c.KeyTTL > 7*24*time.Hour {
		errs = append(errs, errors.New("key_ttl: must be between an hour and 7 days"))
	}
	if c.KeepTransactions < time.Hour {
		errs = append(errs, errors.New("keep_transactions: must be at least an hour"))
	}
	return errors.Join(errs...)
}
