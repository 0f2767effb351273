package freeport_test

import (
	"net"
	"testing"

	"hanse/pkg/freeport"
)

// Nobody is given a port twice, and each can be listened on.
func TestAddr(t *testing.T) {
	seen := make(map[string]bool)
	for range 100 {
		addr, err := freeport.Addr()
		if err != nil {
			t.Fatal(err)
		}
		if seen[addr] {
			t.Fatalf("%s was given twice", addr)
		}
		seen[addr] = true
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
}
