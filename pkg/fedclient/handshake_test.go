package fedclient

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Servers that are slow with their handshake, however many, do not keep others waiting; all get their connection, and none
// keeps a place.
func TestHandshakesOfSlowServers(t *testing.T) {
	n := newNetwork(t)
	cert := n.cert("slow.test")
	h := newHandshakes(prometheus.NewGauge(prometheus.GaugeOpts{Name: "waiting"}))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dial := func(serve func(net.Conn)) net.Conn {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ours, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ours.Close(); theirs.Close() })
		go serve(theirs)
		return ours
	}
	connect := func(answer <-chan struct{}) error {
		raw := dial(func(theirs net.Conn) {
			<-answer
			conn := tls.Server(theirs, &tls.Config{Certificates: []tls.Certificate{cert}})
			if err := conn.HandshakeContext(ctx); err != nil {
				t.Error(err)
			}
			_, _ = conn.Write([]byte("x"))
		})
		conn, err := h.client(ctx, raw, &tls.Config{RootCAs: n.roots, ServerName: "slow.test"})
		if err != nil {
			return err
		}
		_, err = conn.Read(make([]byte, 1)) // without a place
		return err
	}
	slow, now := make(chan struct{}), make(chan struct{})
	close(now)
	var all sync.WaitGroup
	for range 3 * cap(h.slots) {
		all.Go(func() {
			if err := connect(slow); err != nil {
				t.Error("slow:", err)
			}
		})
	}
	for range 10 {
		if err := connect(now); err != nil {
			t.Error("beside slow ones:", err)
		}
	}
	gone, end := context.WithCancel(ctx)
	end()
	if _, err := h.client(gone, dial(func(net.Conn) {}), &tls.Config{ServerName: "gone.test"}); err == nil {
		t.Error("a handshake that was given up succeeded")
	}
	close(slow)
	all.Wait()
	if len(h.slots) != 0 {
		t.Errorf("%d places are taken", len(h.slots))
	}
}
