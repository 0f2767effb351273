package httpx

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestFigures prints what attacks of a size that was met in the field cost, when HANSE_FIGURES is set: the memory of the whole
// process, attackers included, what is held, and how long an honest request takes meanwhile.
func TestFigures(t *testing.T) {
	if os.Getenv("HANSE_FIGURES") == "" {
		t.Skip("only prints figures")
	}
	chunk := []byte(strings.Repeat("x", 1<<20))
	for _, attack := range []struct {
		name, head    string
		sockets, sent int
	}{
		{"200 unfinished bodies of 9.9 MB of one user", "POST /auth HTTP/1.1\r\nX-User: @bad:b\r\nHost: a\r\nContent-Length: 9900000\r\n\r\n", 200, 9_800_000},
		{"2,000 unfinished anonymous bodies of 1 MiB", "POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 1048576\r\n\r\n", 2000, 1_048_000},
		{"4,200 anonymous bodies of one byte", "POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n", 4200, 1},
		{"5,000 bodies that are announced and not sent, refused", "POST /auth HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n", 5000, 0},
	} {
		e := newEdge(t, DefaultIntake(), 4096, 200_000)
		_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // the peak begins anew
		before := memory(t, "VmRSS:")
		var sending sync.WaitGroup
		var sockets []net.Conn
		for range attack.sockets {
			c := e.raw(attack.head)
			sockets = append(sockets, c)
			sending.Go(func() {
				for left := attack.sent; left > 0; left -= len(chunk) {
					if _, err := c.Write(chunk[:min(left, len(chunk))]); err != nil {
						return
					}
				}
			})
		}
		sending.Wait()
		began := time.Now()
		status, known := e.honest("/open", "", 1000), e.honest("/auth", "@good:b", 1000)
		took := time.Since(began)
		u, s := e.intake.Held()
		t.Logf("%s: RSS %d MiB, at most %d MiB; held %d KiB of users, %d KiB of strangers; honest requests: %d and %d in %v",
			attack.name, before>>10, memory(t, "VmHWM:")>>10, u>>10, s>>10, status, known, took)
		for _, c := range sockets {
			c.Close()
		}
	}
}

// memory reads a figure of this process in KiB.
func memory(t *testing.T, name string) (kib int) {
	t.Helper()
	f, err := os.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	raw, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(raw), name)
	if _, err := fmt.Sscan(after, &kib); err != nil {
		t.Fatal(err)
	}
	return kib
}
