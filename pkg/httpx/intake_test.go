package httpx

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"hanse/pkg/merr"
)

// edge is a real listener with a router.
type edge struct {
	t      *testing.T
	addr   string
	intake *Intake
	router *Router
}

func newEdge(t *testing.T, cfg IntakeConfig, slots, conns int) *edge {
	t.Helper()
	e := &edge{t: t, intake: NewIntake(cfg, nil)}
	e.router = NewRouter(RouterConfig{Intake: e.intake, MaxConcurrent: slots})
	who := func(next Handler) Handler {
		return func(w http.ResponseWriter, r *http.Request) error {
			user := r.Header.Get("X-User")
			if user == "" {
				return merr.MissingToken()
			}
			KnownUser(r, user)
			return next(w, r)
		}
	}
	length := func(w http.ResponseWriter, r *http.Request) error {
		b, err := Body(r)
		if err != nil {
			return err
		}
		return OK(w, len(b))
	}
	e.router.Handle("POST /open", length)
	e.router.Group("").With(who).Handle("POST /auth", length, MaxBody(10<<20))
	e.router.Handle("POST /limited", func(http.ResponseWriter, *http.Request) error { return merr.LimitExceeded(1000) })
	s, err := NewServer(ServerConfig{Listen: "127.0.0.1:0", MaxConns: conns}, e.router)
	if err != nil {
		t.Fatal(err)
	}
	e.addr = s.Addr().String()
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	t.Cleanup(func() {
		_ = s.http.Close() // hostile connections are cut
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return e
}

// raw opens a connection and sends text.
func (e *edge) raw(text string) net.Conn {
	e.t.Helper()
	c, err := net.Dial("tcp", e.addr)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		e.t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		e.t.Fatal(err)
	}
	return c
}

// answer reads an answer, and says whether the connection ends behind it.
func (e *edge) answer(c net.Conn) (status int, body string, closed bool) {
	e.t.Helper()
	b := bufio.NewReader(c)
	resp, err := http.ReadResponse(b, nil)
	if err != nil {
		e.t.Fatalf("no answer: %v", err)
	}
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		e.t.Fatalf("half an answer: %v", err)
	}
	if !resp.Close {
		return resp.StatusCode, string(raw), false
	}
	_, err = b.ReadByte()
	return resp.StatusCode, string(raw), errors.Is(err, io.EOF)
}

// honest is a request that is sent at once.
func (e *edge) honest(path, user string, size int) int {
	e.t.Helper()
	req, err := http.NewRequestWithContext(e.t.Context(), "POST", "http://"+e.addr+path, strings.NewReader(strings.Repeat(" ", size)))
	if err != nil {
		e.t.Fatal(err)
	}
	req.Header.Set("X-User", user)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		e.t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// await waits until something is so.
func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !is(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within two minutes: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// Client-server API, "Standard error response": an error is told, whether or not the body that was announced comes.
func TestAnswersDoNotWaitForTheBody(t *testing.T) {
	e := newEdge(t, DefaultIntake(), 4, 1000)
	for _, body := range []string{"Content-Length: 10\r\n\r\n", "Content-Length: 10\r\n\r\nx", "Content-Length: 900000\r\n\r\nxxx",
		"Transfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n5\r\nab"} {
		for path, want := range map[string]int{"/nothing": 404, "/auth": 401, "/limited": 429} {
			c := e.raw("POST " + path + " HTTP/1.1\r\nHost: a\r\n" + body)
			if status, _, closed := e.answer(c); status != want || !closed {
				t.Errorf("%s with %q: %d, closed: %v", path, body, status, closed)
			}
		}
	}
	c := e.raw("POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 20000000\r\n\r\n")
	if status, body, closed := e.answer(c); status != 413 || !closed || !strings.Contains(body, "M_TOO_LARGE") {
		t.Errorf("too large: %d %s, closed: %v", status, body, closed)
	}
	c = e.raw("POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
	if status, _, closed := e.answer(c); status != 200 || closed {
		t.Errorf("a body that is there: %d, closed: %v", status, closed)
	}
}

// Whoever is still sending when the answer is made reads it all the same.
func TestAnswerReachesWhoIsSending(t *testing.T) {
	e := newEdge(t, DefaultIntake(), 4, 1000)
	for range 20 {
		c := e.raw("POST /auth HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + strings.Repeat("x", 200_000))
		if status, _, _ := e.answer(c); status != 401 {
			t.Fatalf("%d", status)
		}
	}
}

// A body that stops is an error, never an empty answer with status 200.
func TestStalledBody(t *testing.T) {
	cfg := DefaultIntake()
	cfg.Wait, cfg.Rate = 200*time.Millisecond, 1<<20
	e := newEdge(t, cfg, 4, 1000)
	for _, body := range []string{"Content-Length: 10\r\n\r\n12345", "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n", "Transfer-Encoding: chunked\r\n\r\n"} {
		c := e.raw("POST /open HTTP/1.1\r\nHost: a\r\n" + body)
		if status, text, closed := e.answer(c); status != 408 || !closed || !strings.Contains(text, "errcode") {
			t.Errorf("%q: %d %q, closed: %v", body, status, text, closed)
		}
	}
	if known, strangers := e.intake.Held(); known != 0 || strangers != 0 {
		t.Errorf("%d and %d bytes are still held", known, strangers)
	}
}

// A deadline moves with what arrives, and not with time.
func TestDeadlineMovesWithProgress(t *testing.T) {
	in := NewIntake(DefaultIntake(), nil)
	began := time.Unix(1000, 0)
	for arrived, want := range map[int]time.Duration{0: 20 * time.Second, 1024: 21 * time.Second, 1 << 20: 20*time.Second + 1024*time.Second} {
		if got := in.deadline(began, arrived).Sub(began); got != want {
			t.Errorf("%d bytes: %v", arrived, got)
		}
	}
}

// Requests whose bodies have not arrived take no slots, and what they announce takes no memory.
func TestUnfinishedBodiesTakeNothing(t *testing.T) {
	e := newEdge(t, DefaultIntake(), 50, 1000)
	const hostile = 200
	for i := range hostile {
		e.raw(fmt.Sprintf("POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\nX-N: %d\r\n\r\nx", i))
	}
	await(t, "the bodies are being read", func() bool { _, n := e.intake.Held(); return n == hostile*bodyLeast })
	for _, path := range []string{"/open", "/auth"} {
		if status := e.honest(path, "@a:b", 1000); status != 200 {
			t.Errorf("an honest request meanwhile: %s %d", path, status)
		}
	}
	if _, n := e.intake.Held(); n > hostile*bodyLeast {
		t.Errorf("%d bytes are held", n)
	}
}

// What one address or one user leaves unfinished makes room for what comes later, and takes nothing from others.
func TestBodiesStayWithinTheBudget(t *testing.T) {
	cfg := DefaultIntake()
	cfg.User, cfg.Address, cfg.Known, cfg.Strangers = 256<<10, 64<<10, 1<<20, 128<<10
	e := newEdge(t, cfg, 100, 1000)
	over := make(chan string, 1)
	watch := func() {
		if known, strangers := e.intake.Held(); known > cfg.User+8<<10 || strangers > cfg.Address+8<<10 {
			select {
			case over <- fmt.Sprintf("%d of users and %d of strangers", known, strangers):
			default:
			}
		}
	}
	half := strings.Repeat("x", 40_000)
	var last net.Conn
	for range 40 {
		last = e.raw("POST /auth HTTP/1.1\r\nX-User: @bad:b\r\nHost: a\r\nContent-Length: 90000\r\n\r\n" + half)
		e.raw("POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 90000\r\n\r\n" + half)
		watch()
		if status := e.honest("/auth", "@good:b", 1000); status != 200 {
			t.Fatalf("another user: %d", status)
		}
		if status := e.honest("/open", "", 1000); status != 200 {
			t.Fatalf("the same address: %d", status)
		}
	}
	// The last one has pushed out the others of its user.
	if _, err := io.WriteString(last, strings.Repeat("x", 50_000)); err != nil {
		t.Fatal(err)
	}
	if status, body, _ := e.answer(last); status != 200 || body != "90000" {
		t.Errorf("the newest body: %d %s", status, body)
	}
	select {
	case what := <-over:
		t.Errorf("held %s", what)
	default:
	}
}

// Those who were pushed out are told at once.
func TestEvictedBodyIsAnswered(t *testing.T) {
	cfg := DefaultIntake()
	cfg.Address = 2 * bodyLeast
	e := newEdge(t, cfg, 100, 1000)
	first := e.raw("POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx")
	await(t, "the first", func() bool { _, n := e.intake.Held(); return n == bodyLeast })
	for range 2 {
		e.raw("POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx")
	}
	if status, text, closed := e.answer(first); status != 429 || !closed || !strings.Contains(text, "M_LIMIT_EXCEEDED") {
		t.Errorf("%d %s, closed: %v", status, text, closed)
	}
}

// Connections that say nothing make room for those that do.
func TestSilentConnectionsMakeRoom(t *testing.T) {
	e := newEdge(t, DefaultIntake(), 4, 8)
	var silent []net.Conn
	for range 8 {
		silent = append(silent, e.raw("POST /op"))
	}
	for range 3 {
		c := e.raw("POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
		if status, _, _ := e.answer(c); status != 200 {
			t.Fatalf("%d", status)
		}
	}
	for _, c := range silent[:3] {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
			t.Errorf("one that was silent for the longest time: %v", err)
		}
	}
}

func TestNetwork(t *testing.T) {
	for addr, want := range map[string]string{"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8:1:2:3::4": "2001:db8:1:2::/64"} {
		if got := Network(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %s", addr, got)
		}
	}
}
