package bustest

import (
	"fmt"
	"net"

	"github.com/nats-io/nats-server/v2/server"
)

func portOf(srv *server.Server) (int, error) {
	a, ok := srv.Addr().(*net.TCPAddr)
	if !ok {
		return 0, fmt.Errorf("nats: no TCP address: %v", srv.Addr())
	}
	return a.Port, nil
}
