// Package freeport names ports for servers that a test or a local cluster starts a moment later, when they cannot listen
// on port 0 and say which one they got.
//
// Between the choice and the start anybody may take the port. What takes ports by itself, and all the time, is the kernel:
// for outgoing connections and for those who listen on port 0. So ports are chosen below those that it gives away; there
// only others who choose like this can meet, at random among 20,000. It also lets a server that is restarted find its port
// free.
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// Linux gives away ports from 32768 on (net.ipv4.ip_local_port_range).
const lowest, highest = 12000, 32000

var ports = struct {
	sync.Mutex
	taken map[int]bool
}{taken: make(map[int]bool)}

// Port returns a port of the loopback addresses that nobody listens on, and that this process has not been given before.
func Port() (int, error) {
	ports.Lock()
	defer ports.Unlock()
	for range 1000 {
		port := lowest + rand.IntN(highest-lowest)
		if ports.taken[port] {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		l.Close()
		ports.taken[port] = true
		return port, nil
	}
	return 0, errors.New("no free port")
}

// Addr returns a loopback address with such a port.
func Addr() (string, error) {
	port, err := Port()
	return fmt.Sprintf("127.0.0.1:%d", port), err
}
