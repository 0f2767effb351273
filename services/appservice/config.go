package appservice

import (
	"errors"
	"time"
)

// Config is what an operator sets of the role.
type Config struct {
	Events      int           `yaml:"events" doc:"Events in one transaction at most; as many receipts, to-device messages and changes of device lists beside them."`
	Bytes       int           `yaml:"bytes" doc:"Size of a transaction at most, unless one event alone is larger. Services that use aiohttp refuse more than 1 MiB unless they say otherwise."`
	Timeout     time.Duration `yaml:"timeout" doc:"How long a service may take to answer a transaction."`
	Requests    int           `yaml:"requests" doc:"Transactions on their way at once; a quarter of them is for services that have not answered well lately. One at most goes to each service."`
	QueueEvents int           `yaml:"queue_events" doc:"Entries of the log that wait in memory for one service; one that is slower is served from the database."`
	QueueBytes  int64         `yaml:"queue_bytes" doc:"Memory for all that waits for services, in bytes."`
	Rooms       int           `yaml:"rooms" doc:"Rooms of which a worker remembers who wants their events. Beyond it rooms are read anew."`
}

// Defaults suit a small server and a large one alike.
func Defaults() Config {
	return Config{Events: 100, Bytes: 900_000, Timeout: time.Minute, Requests: 256, QueueEvents: 2000, QueueBytes: 64 << 20, Rooms: 500_000}
}

// Validate reports what nothing could work with.
func (c *Config) Validate() error {
	if c.Events < 1 || c.Bytes < 1000 || c.Timeout < time.Second || c.Requests < 4 || c.QueueEvents < 1 || c.QueueBytes < 1<<20 || c.Rooms < 1000 {
		return errors.New("at least: events 1, bytes 1000, timeout 1s, requests 4, queue_events 1, queue_bytes 1048576, rooms 1000")
	}
	return nil
}
