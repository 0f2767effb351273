package cluster

import "net"

// loopbacks are the addresses that "localhost" may mean on this machine.
func loopbacks() []string {
	hosts := []string{"127.0.0.1"}
	if l, err := net.Listen("tcp6", "[::1]:0"); err == nil {
		l.Close()
		hosts = append(hosts, "::1")
	}
	return hosts
}
