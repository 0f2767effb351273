package push

import (
	"errors"
	"time"
)

// Config is what an operator sets of the role.
type Config struct {
	Requests   int           `yaml:"requests" doc:"Requests to push gateways on their way at once; a quarter of them is for gateways that have not answered well lately."`
	PerGateway int           `yaml:"per_gateway" doc:"Requests to one push gateway on their way at once."`
	Timeout    time.Duration `yaml:"timeout" doc:"How long a push gateway may take to answer."`
	GiveUp     time.Duration `yaml:"give_up" doc:"Age of a notification that is not sent any more."`
	Members    int           `yaml:"members" doc:"Users with pushers, in all rooms together, that a worker remembers. Beyond it rooms are read anew."`
}

// Defaults suit a small server and a large one alike.
func Defaults() Config {
	return Config{Requests: 1024, PerGateway: 128, Timeout: 15 * time.Second, GiveUp: 24 * time.Hour, Members: 2_000_000}
}

// Validate reports what nothing could work with.
func (c *Config) Validate() error {
	if c.Requests < 4 || c.PerGateway < 1 || c.Timeout < time.Second || c.GiveUp < time.Minute || c.Members < 1000 {
		return errors.New("at least: requests 4, per_gateway 1, timeout 1s, give_up 1m, members 1000")
	}
	return nil
}
