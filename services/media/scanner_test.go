package media

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// scanner is the operator's: it answers what a test says, and keeps what it was asked.
type scanner struct {
	*httptest.Server
	mu     sync.Mutex
	answer func(w http.ResponseWriter, r *http.Request, about map[string]any, content []byte)
	asked  []map[string]any
	read   [][]byte
}

func newTestScanner(t *testing.T) *scanner {
	t.Helper()
	s := new(scanner)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		if err != nil || r.Header.Get("Authorization") != "Bearer secret" || r.URL.Path != "/scan" {
			t.Errorf("asked %s with %v: %v", r.URL, r.Header, err)
		}
		var about map[string]any
		s.mu.Lock()
		answer := s.answer
		if r.Header.Get("Content-Type") == "application/json" {
			if err := json.Unmarshal(raw, &about); err != nil {
				t.Error(err)
			}
			s.asked = append(s.asked, about)
		} else {
			s.read = append(s.read, raw)
		}
		s.mu.Unlock()
		answer(w, r, about, raw)
	}))
	t.Cleanup(s.Close)
	return s
}

// says sets the answers to a hash and to bytes.
func (s *scanner) says(toHash, toBytes string) {
	s.answers(func(w http.ResponseWriter, _ *http.Request, about map[string]any, _ []byte) {
		verdict := toHash
		if about == nil {
			verdict = toBytes
		}
		fmt.Fprintf(w, `{"verdict":%q}`, verdict)
	})
}

func (s *scanner) answers(f func(w http.ResponseWriter, r *http.Request, about map[string]any, content []byte)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer, s.asked, s.read = f, nil, nil
}

func scannedCluster(t *testing.T, s *scanner, unanswered string) *cluster {
	t.Helper()
	return newCluster(t, func(cfg *Config) {
		cfg.Scanner = Scanner{URL: s.URL + "/scan", Token: "secret", Time: time.Minute, Unanswered: unanswered}
	})
}

func (c *cluster) nothingIsKept() {
	c.t.Helper()
	if a, err := c.workers[0].store.Audit(c.t.Context(), false, 0); err != nil || a.Objects != 0 || a.Rows != 0 {
		c.t.Errorf("kept %+v %v", a, err)
	}
}

// A scanner decides by the hash, or by the bytes if it asks for them; what it rejects is not kept.
func TestScannerDecides(t *testing.T) {
	s := newTestScanner(t)
	c := scannedCluster(t, s, unansweredRefuse)
	token := c.login(anna)
	w := c.workers[0]
	up := "/_matrix/media/v3/upload?filename=x.txt"
	s.says("reject", "")
	w.do("POST", up, token, []byte("bad"), "Content-Type", "text/plain").fails(400, "M_UNKNOWN")
	s.says("content", "reject")
	w.do("POST", up, token, []byte("bad"), "Content-Type", "text/plain").fails(400, "M_UNKNOWN")
	c.nothingIsKept()
	s.says("content", "accept")
	content := bytes.Repeat([]byte("good"), 100_000)
	path := w.upload(token, "?filename=x.txt", content, "Content-Type", "text/plain")
	s.mu.Lock()
	a := s.asked[0]
	if len(s.asked) != 1 || a["media"] != "mxc:/"+path || a["type"] != "text/plain" || a["bytes"] != 400_000.0 || a["name"] != "x.txt" || a["user"] != string(anna) {
		t.Errorf("asked %v", s.asked)
	}
	if sum, _ := a["sha256"].(string); len(sum) != 64 || len(s.read) != 1 || !bytes.Equal(s.read[0], content) {
		t.Errorf("hash %q, read %d times", sum, len(s.read))
	}
	s.mu.Unlock()
	c.workers[1].do("GET", v1+"/download"+path, token, nil).ok()
	s.says("accept", "")
	w.upload(token, "", nil)
	if len(s.read) != 0 {
		t.Error("the scanner was sent bytes that it did not ask for")
	}
}

// A file is held back until the scanner has answered.
func TestScannerHoldsBack(t *testing.T) {
	s := newTestScanner(t)
	c := scannedCluster(t, s, unansweredRefuse)
	token := c.login(anna)
	asked, decide := make(chan struct{}, 2), make(chan string)
	s.answers(func(w http.ResponseWriter, _ *http.Request, _ map[string]any, _ []byte) {
		asked <- struct{}{}
		fmt.Fprintf(w, `{"verdict":%q}`, <-decide)
	})
	one, two := c.workers[0], c.workers[1]
	path := strings.TrimPrefix(one.do("POST", "/_matrix/media/v1/create", token, []byte("{}")).ok().str("content_uri"), "mxc:/")
	var wg sync.WaitGroup
	wg.Go(func() { one.do("PUT", "/_matrix/media/v3/upload"+path, token, []byte("held")).ok() })
	<-asked
	two.do("GET", v1+"/download"+path+"?timeout_ms=0", token, nil).fails(504, "M_NOT_YET_UPLOADED")
	decide <- "accept"
	wg.Wait()
	two.do("GET", v1+"/download"+path, token, nil).ok()

	// A file of another server is not shown while it arrives, as it is without a scanner.
	c.remote.answers(func(w *remoteAnswer, _ string) { w.multipart("Content-Type: text/plain\r\n", "from elsewhere") })
	got := make(chan *reply, 1)
	wg.Go(func() { got <- two.do("GET", v1+"/download/remote.example/held", token, nil) })
	<-asked
	select {
	case r := <-got:
		t.Errorf("had before the scanner has answered: %d %q", r.status, r.raw)
	default:
	}
	decide <- "accept"
	if r := (<-got).ok(); string(r.raw) != "from elsewhere" || r.header.Get("Content-Type") != "text/plain" {
		t.Errorf("%q %v", r.raw, r.header)
	}
	wg.Go(func() { one.do("GET", v1+"/download/remote.example/bad", token, nil).fails(404, "M_NOT_FOUND") })
	<-asked
	decide <- "reject"
	wg.Wait()
	if u, err := one.store.ServerUsage(t.Context(), "remote.example"); err != nil || u.Items != 1 {
		t.Errorf("kept of another server: %+v %v", u, err)
	}
}

// What happens if the scanner does not answer is a setting. It is led nowhere else.
func TestScannerDoesNotAnswer(t *testing.T) {
	s := newTestScanner(t)
	for _, unanswered := range []string{unansweredRefuse, unansweredAccept} {
		c := scannedCluster(t, s, unanswered)
		token := c.login(anna)
		for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request, about map[string]any, content []byte){
			"500": func(w http.ResponseWriter, _ *http.Request, _ map[string]any, _ []byte) { w.WriteHeader(500) },
			"no JSON": func(w http.ResponseWriter, _ *http.Request, _ map[string]any, _ []byte) {
				_, _ = io.WriteString(w, "<html>")
			},
			"nonsense": func(w http.ResponseWriter, _ *http.Request, _ map[string]any, _ []byte) {
				_, _ = io.WriteString(w, `{"verdict":"maybe"}`)
			},
			"redirect": func(w http.ResponseWriter, r *http.Request, _ map[string]any, _ []byte) {
				http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
			},
			"always bytes": func(w http.ResponseWriter, _ *http.Request, _ map[string]any, _ []byte) {
				_, _ = io.WriteString(w, `{"verdict":"content"}`)
			},
			"breaks off": func(http.ResponseWriter, *http.Request, map[string]any, []byte) { panic(http.ErrAbortHandler) },
		} {
			s.answers(answer)
			r := c.workers[0].do("POST", "/_matrix/media/v3/upload", token, []byte(name))
			if unanswered == unansweredAccept {
				r.ok()
			} else {
				r.fails(502, "M_UNKNOWN")
			}
		}
		if unanswered == unansweredRefuse {
			c.nothingIsKept()
		}
	}
	// One that never answers ends with its time.
	c := scannedCluster(t, s, unansweredRefuse)
	for _, w := range c.workers {
		w.media.cfg.Scanner.Time = time.Millisecond
	}
	s.answers(func(_ http.ResponseWriter, r *http.Request, _ map[string]any, _ []byte) { <-r.Context().Done() })
	c.workers[0].do("POST", "/_matrix/media/v3/upload", c.login(anna), []byte("slow")).fails(502, "M_UNKNOWN")
	c.nothingIsKept()
}
