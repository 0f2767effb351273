package fedin

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/merr"
)

// listen serves the worker with the real listener and so many slots, and returns what it takes bodies in with.
func (w *worker) listen(slots int) *httpx.Intake {
	w.t.Helper()
	intake := httpx.NewIntake(httpx.DefaultIntake(), nil)
	rt := httpx.NewRouter(httpx.RouterConfig{Name: "federation", Intake: intake, MaxConcurrent: slots, MaxPolls: slots})
	w.fedin.Routes(rt)
	srv, err := httpx.NewServer(httpx.ServerConfig{Listen: "127.0.0.1:0"}, rt)
	must(w.t, err)
	var done sync.WaitGroup
	done.Go(func() { _ = srv.Serve() })
	w.t.Cleanup(func() {
		srv.Cut()
		done.Wait()
	})
	w.url = "http://" + srv.Addr().String()
	return intake
}

// socket opens a connection and sends text, and no more.
func (w *worker) socket(text string) net.Conn {
	w.t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	must(w.t, err)
	w.t.Cleanup(func() { c.Close() })
	must(w.t, c.SetDeadline(time.Now().Add(2*time.Minute)))
	_, err = io.WriteString(c, text)
	must(w.t, err)
	return c
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !is(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within two minutes: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// Server-server API, "Request Authentication": a name in a header is no proof. Requests that name a server, announce bodies
// and do not send them take nothing from that server, nor from others.
func TestAnnouncedBodiesTakeNothing(t *testing.T) {
	w := newWorker(t)
	intake := w.listen(100)
	w.account("anna")
	known, other := w.server("known.example"), w.server("other.example")
	known.do("GET", profileURI, nil).ok()
	garbage := strings.Replace(known.sign("PUT", v1+"/send/x", "a.example", nil), `sig="`, `sig="AAAA`, 1)
	const hostile = 150
	for i := range hostile {
		w.socket(fmt.Sprintf("PUT %s/send/%d HTTP/1.1\r\nHost: a.example\r\nAuthorization: %s\r\nContent-Length: 1048576\r\n\r\n{", v1, i, garbage))
	}
	held := func() int64 { known, strangers := intake.Held(); return known + strangers }
	until(t, "all bodies are being read", func() bool { return held() >= hostile*4096 })
	for i := range 3 {
		txn := map[string]any{"origin": "x", "pdus": []any{}, "edus": []any{}, "padding": strings.Repeat("x", 1<<20)}
		known.do("PUT", fmt.Sprintf("%s/send/good%d", v1, i), txn).ok()
		other.do("PUT", fmt.Sprintf("%s/send/good%d", v1, i), txn).ok()
	}
	if n := held(); n > hostile*4096+4<<20 {
		t.Errorf("%d bytes are held for %d bodies of one byte", n, hostile)
	}
	// One with a body that has arrived is refused at once.
	w.do("PUT", v1+"/send/bad", garbage, []byte(`{}`)).fails(401, merr.CodeUnauthorized)
}

// The endpoints that need no signature hold as little.
func TestAnnouncedKeyQueriesTakeNothing(t *testing.T) {
	w := newWorker(t)
	intake := w.listen(100)
	const hostile = 150
	for range hostile {
		w.socket("POST /_matrix/key/v2/query HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1000000\r\n\r\n{")
	}
	until(t, "all bodies are being read", func() bool { _, n := intake.Held(); return n >= hostile*4096 })
	w.do("POST", "/_matrix/key/v2/query", "", []byte(`{"server_keys":{"a.example":{}}}`)).ok()
	w.do("GET", "/_matrix/key/v2/server", "", nil).ok()
	if _, n := intake.Held(); n > hostile*4096 {
		t.Errorf("%d bytes are held", n)
	}
}

// Servers whose keys never come keep nobody out whose keys do, and a worker that has just started needs no keys that are
// stored.
func TestTarpitsKeepNobodyOut(t *testing.T) {
	w := newWorker(t)
	w.account("anna")
	known := w.server("known.example")
	known.do("GET", profileURI, nil).ok()
	hanging := make(chan struct{})
	w.others.mu.Lock()
	w.others.hang = hanging
	w.others.mu.Unlock()
	restarted := w.twin()
	restarted.listen(1000)
	key, err := signing.NewKey()
	must(t, err)
	const tarpits = 200
	var done sync.WaitGroup
	defer done.Wait()
	defer close(hanging)
	for i := range tarpits {
		s := &server{restarted, id.Server(fmt.Sprintf("tarpit%d.example", i)), key}
		header := s.sign("GET", profileURI, "a.example", nil)
		done.Go(func() {
			c := restarted.socket("GET " + profileURI + " HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\nAuthorization: " + header + "\r\n\r\n")
			_, _ = io.Copy(io.Discard, c) // what becomes of it does not matter
		})
	}
	until(t, "all of them are asked", func() bool { return restarted.fedin.keyWaits.Held("waits") == tarpits })
	asked := w.others.askedFor("known.example")
	known.w = restarted
	known.do("GET", profileURI, nil).ok()
	if n := w.others.askedFor("known.example"); n != asked {
		t.Errorf("a server whose keys are stored was asked for them %d times", n-asked)
	}
	fresh := w.server("fresh.example")
	fresh.w = restarted
	fresh.do("GET", profileURI, nil).ok()
	if n := restarted.fedin.keyWaits.Held("waits"); n != tarpits {
		t.Errorf("%d requests wait for keys", n)
	}
}

// Of too many that wait for keys the one that has waited for the longest time goes.
func TestKeyWaitsAreBounded(t *testing.T) {
	f := &Fedin{keyWaits: newKeyWaits(nil)}
	r, err := http.NewRequestWithContext(t.Context(), "GET", "/", nil)
	must(t, err)
	r.RemoteAddr = "192.0.2.1:1"
	first, _, err := f.waitForKey(t.Context(), r, "s0")
	must(t, err)
	for i := range keyWaitsAddress {
		if first.Err() != nil {
			t.Fatalf("the first one has ended with %d others", i)
		}
		_, _, err := f.waitForKey(t.Context(), r, id.Server(fmt.Sprint("s", i)))
		must(t, err)
	}
	if first.Err() == nil {
		t.Error("the first one still waits")
	}
	if n := f.keyWaits.Held("waits"); n != keyWaitsAddress {
		t.Errorf("%d wait", n)
	}
}
