package media

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"hanse/pkg/netguard"
)

// names is a DNS server whose answers change: each query for a name takes the next of its answers, the last one for ever.
type names struct {
	addr string

	mu      sync.Mutex
	answers map[string][][]netip.Addr // by "A name" and "AAAA name"
	asked   map[string]int
}

func newNames(t *testing.T) *names {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	n := &names{addr: conn.LocalAddr().String(), answers: make(map[string][][]netip.Addr), asked: make(map[string]int)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1500)
		for {
			size, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if answer := n.answer(b[:size]); answer != nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return n
}

// resolver asks the server.
func (n *names) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", n.addr)
	}}
}

// set sets what a name is said to be, at one query after the other.
func (n *names) set(kind, name string, answers ...[]netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answers[kind+" "+name] = answers
}

// answer answers a query (RFC 1035, 4.1).
func (n *names) answer(q []byte) []byte {
	const head = 12
	at, name := head, ""
	for at < len(q) && q[at] != 0 {
		end := at + 1 + int(q[at])
		if end > len(q) {
			return nil
		}
		if name != "" {
			name += "."
		}
		name += string(q[at+1 : end])
		at = end
	}
	if at+5 > len(q) {
		return nil
	}
	kind := map[uint16]string{1: "A", 28: "AAAA"}[binary.BigEndian.Uint16(q[at+1:])]
	n.mu.Lock()
	defer n.mu.Unlock()
	key := kind + " " + name
	var addrs []netip.Addr
	if all := n.answers[key]; len(all) > 0 {
		addrs = all[min(n.asked[key], len(all)-1)]
		n.asked[key]++
	}
	out := append([]byte{q[0], q[1], 0x84, 0, 0, 1, 0, byte(len(addrs)), 0, 0, 0, 0}, q[head:at+5]...)
	for _, a := range addrs {
		raw := a.AsSlice()
		out = append(out, 0xc0, head, q[at+1], q[at+2], 0, 1, 0, 0, 0, 0, 0, byte(len(raw)))
		out = append(out, raw...)
	}
	return out
}

// A name that is outside when it is looked at, and inside when it is connected to: by the page, by a redirect, by the picture
// of the page, by a Location of another server, with addresses of both kinds in one answer, with such as stand for others.
func TestNamesThatMoveInside(t *testing.T) {
	c := newCluster(t)
	token := c.login(anna)
	var fallen atomic.Int32
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { fallen.Add(1) }))
	defer inside.Close()
	port := inside.Listener.Addr().(*net.TCPAddr).Port
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.2:%d", port))
	must(t, err)
	outside := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close") // the next request looks the name up again
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, "/", http.StatusFound)
		case "/picture":
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, `<title>x</title><meta property="og:image" content="/inside.png">`)
		}
	})}}
	outside.Start()
	defer outside.Close()
	dns := newNames(t)
	for _, w := range c.workers {
		w.media.web = newWeb(&netguard.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}}, dns.resolver(), nil)
	}
	addrs := func(texts ...string) (out []netip.Addr) {
		for _, text := range texts {
			out = append(out, netip.MustParseAddr(text))
		}
		return out
	}
	good := addrs("127.0.0.2")
	for n, q := range []struct {
		path    string
		a, aaaa [][]netip.Addr
		status  int
	}{
		{"/", [][]netip.Addr{good}, nil, 200},
		{"/", [][]netip.Addr{addrs("127.0.0.1")}, nil, 502},
		{"/", [][]netip.Addr{addrs("0.0.0.0")}, nil, 502},
		{"/", nil, [][]netip.Addr{addrs("::1")}, 502},
		{"/", nil, [][]netip.Addr{addrs("::ffff:127.0.0.1")}, 502},
		{"/", nil, [][]netip.Addr{addrs("64:ff9b::7f00:1")}, 502},
		{"/", nil, [][]netip.Addr{addrs("2002:7f00:1::")}, 502},
		{"/", nil, [][]netip.Addr{addrs("::127.0.0.1")}, 502},
		{"/", [][]netip.Addr{addrs("10.0.0.1", "192.168.0.1", "169.254.169.254")}, [][]netip.Addr{addrs("fc00::1", "fe80::1")}, 502},
		{"/", [][]netip.Addr{addrs("127.0.0.1", "127.0.0.2")}, nil, 200}, // the one that may be connected to
		{"/away", [][]netip.Addr{good, addrs("127.0.0.1")}, nil, 502},
		{"/away", [][]netip.Addr{good, nil}, [][]netip.Addr{nil, addrs("::1")}, 502},
		{"/picture", [][]netip.Addr{good, addrs("127.0.0.1")}, nil, 200},
		{"/picture", [][]netip.Addr{good, nil}, [][]netip.Addr{nil, addrs("::ffff:127.0.0.1")}, 200},
	} {
		host := fmt.Sprintf("name%d.example", n)
		dns.set("A", host, q.a...)
		dns.set("AAAA", host, q.aaaa...)
		u := fmt.Sprintf("http://%s:%d%s", host, port, q.path)
		r := c.workers[n%2].do("GET", ask(u), token, nil)
		if r.status != q.status || r.status == 200 && r.json()["og:image"] != nil {
			t.Errorf("%d: %s by %v %v: %d %s", n, q.path, q.a, q.aaaa, r.status, r.raw)
		}
		if q.status == 200 {
			continue
		}
		other := fmt.Sprintf("other%d.example", n)
		dns.set("A", other, q.a...)
		dns.set("AAAA", other, q.aaaa...)
		c.remote.answers(func(a *remoteAnswer, _ string) {
			a.multipart(fmt.Sprintf("Location: http://%s:%d%s\r\n", other, port, q.path), "")
		})
		c.workers[n%2].do("GET", fmt.Sprintf("%s/download/remote.example/name%d", v1, n), token, nil).fails(502, "M_UNKNOWN")
	}
	if n := fallen.Load(); n != 0 {
		t.Errorf("%d requests got inside", n)
	}
}
