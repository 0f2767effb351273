package media

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
)

// What an upload and a download cost PostgreSQL does not grow with the file, nor with what its user has.
func TestStatements(t *testing.T) {
	c := newCluster(t)
	token := c.login(anna)
	w := c.workers[0]
	var path string
	n := 0
	upload := func(size int) (statements, rows float64) {
		return c.counter.Each(9, func(int) {
			n++
			path = w.upload(token, "", append(make([]byte, size), fmt.Sprint(n)...))
		})
	}
	upload(1)
	small, smallRows := upload(1000)
	large, largeRows := upload(3 << 20)
	if small != uploadStatements || large != small || largeRows != smallRows {
		t.Errorf("an upload: %v statements and %v rows, a large one %v and %v; want %d", small, smallRows, large, largeRows, uploadStatements)
	}
	for _, headers := range [][]string{nil, {"Range", "bytes=0-99"}} {
		if statements, rows := c.counter.Each(9, func(int) { w.do("GET", v1+"/download"+path, token, nil, headers...).ok() }); statements != 1 || rows != 1 {
			t.Errorf("a download with %v: %v statements, %v rows", headers, statements, rows)
		}
	}
}

// uploadStatements are: begin, stored; three with a transaction around them for the object, ready and two usages with another.
const uploadStatements = 11

// numbers is a body of so many bytes, none of which is held, that waits in its middle.
type numbers struct {
	left, middle int
	half         func()
	r            *rand.ChaCha8
}

func (n *numbers) Read(p []byte) (int, error) {
	if n.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(len(p), n.left)]
	_, _ = n.r.Read(p)
	if n.left -= len(p); n.half != nil && n.left <= n.middle {
		n.half()
		n.half = nil
	}
	return len(p), nil
}

// memory reads a line of /proc/self/status, in bytes.
func memory(t *testing.T, name string) int64 {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/status")
	must(t, err)
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			var kilobytes int64
			_, err := fmt.Sscan(rest, &kilobytes)
			must(t, err)
			return kilobytes << 10
		}
	}
	t.Fatalf("no %s", name)
	return 0
}

// 16 uploads of 20 MB that are under way at the same time hold at most 64 MiB, their clients' side included.
func TestUploadsHoldLittle(t *testing.T) { objectStores(t, testUploadsHoldLittle) }

func testUploadsHoldLittle(t *testing.T, change func(*Config)) {
	const uploads, size, most = 16, 20_000_000, 64 << 20
	c := newCluster(t, change)
	token := c.login(anna)
	c.workers[0].upload(token, "", bytes.Repeat([]byte("x"), size))
	debug.FreeOSMemory()
	var before, during runtime.MemStats
	runtime.ReadMemStats(&before)
	resident := memory(t, "VmRSS")
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // the peak begins anew, where that is allowed
	var half, wg sync.WaitGroup
	half.Add(uploads)
	goOn := make(chan struct{})
	for n := range uploads {
		wg.Go(func() {
			body := &numbers{left: size, middle: size / 2, half: func() { half.Done(); <-goOn }, r: rand.NewChaCha8([32]byte{byte(n)})}
			req, err := http.NewRequest("POST", c.workers[n%2].url+"/_matrix/media/v3/upload", body)
			if err != nil {
				t.Error(err)
				return
			}
			req.ContentLength = size
			req.Header.Set("Authorization", "Bearer "+token)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("upload %d: %d", n, resp.StatusCode)
			}
		})
	}
	half.Wait()
	runtime.GC()
	runtime.ReadMemStats(&during)
	if grown := int64(during.HeapAlloc) - int64(before.HeapAlloc); grown > most {
		t.Errorf("%d uploads under way hold %d MiB", uploads, grown>>20)
	} else {
		t.Logf("%d uploads under way hold %.1f MiB", uploads, float64(grown)/(1<<20))
	}
	close(goOn)
	wg.Wait()
	t.Logf("resident memory grew by %.1f MiB at most", float64(memory(t, "VmHWM")-resident)/(1<<20))
}

// Downloads of 50 MB from the file store; and of the same file from another server, if HANSE_BESIDE is its URL (nginx, say).
func BenchmarkDownload(b *testing.B) {
	const size = 50_000_000
	get := func(b *testing.B, url, token string) {
		b.SetBytes(size)
		buffer := make([]byte, 1<<20)
		for b.Loop() {
			req, err := http.NewRequest("GET", url, nil)
			if err != nil {
				b.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+token)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				b.Fatal(err)
			}
			n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, buffer)
			resp.Body.Close()
			if err != nil || n != size {
				b.Fatal(n, err)
			}
		}
	}
	b.Run("Hanse", func(b *testing.B) {
		c := newCluster(b)
		token := c.login(anna)
		get(b, c.workers[0].url+v1+"/download"+c.workers[0].upload(token, "", make([]byte, size)), token)
	})
	if beside := os.Getenv("HANSE_BESIDE"); beside != "" {
		b.Run("beside", func(b *testing.B) { get(b, beside, "") })
	}
}
