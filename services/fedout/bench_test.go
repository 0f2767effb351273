package fedout

import (
	"bufio"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"

	logv1 "hanse/proto/log/v1"
)

// benchServers makes this test process the other servers of a benchmark instead: their CPU is not ours.
const benchServers = "FEDOUT_BENCH_SERVERS"

func TestMain(m *testing.M) {
	if n, err := strconv.Atoi(os.Getenv(benchServers)); err == nil {
		if err := serveBench(n); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveBench listens on n addresses, prints the certificate and the names, and then, for each line that it reads, how
// many events it has got.
func serveBench(n int) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return err
	}
	fmt.Println(strings.ReplaceAll(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), "\n", "|"))
	var events atomic.Int64
	handler := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		if err == nil {
			events.Add(int64(strings.Count(string(body), `"test_id"`)))
		}
		fmt.Fprint(w, `{"pdus":{}}`)
	})
	var names []string
	for range n {
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"h2", "http/1.1"}})
		if err != nil {
			return err
		}
		names = append(names, l.Addr().String())
		go func() { _ = http.Serve(l, handler) }() // until the process ends
	}
	fmt.Println(strings.Join(names, " "))
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Println(events.Load())
	}
	return nil
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFanout measures the CPU of sending one event to 100 servers: one event at a time, each of which needs a
// transaction to each server, and many at once, which share them.
func BenchmarkFanout(b *testing.B) {
	for _, burst := range []int{1, 50} {
		b.Run(fmt.Sprintf("burst=%d", burst), func(b *testing.B) { benchFanout(b, 100, burst) })
	}
}

func benchFanout(b *testing.B, servers, burst int) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), benchServers+"="+strconv.Itoa(servers))
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	line := func() string { lines.Scan(); return lines.Text() }
	w := newWorld(b)
	if !w.roots.AppendCertsFromPEM([]byte(strings.ReplaceAll(line(), "|", "\n"))) {
		b.Fatal("no certificate")
	}
	r := w.room("r", strings.Fields(line())...)
	k := w.start("one")
	var mu sync.Mutex
	arrived := func() int {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintln(in)
		n, err := strconv.Atoi(line())
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
	total := 0
	send := func() {
		events := make([]*logv1.Event, burst)
		for i := range events {
			events[i] = &logv1.Event{Type: "m.room.message", Sender: "@a:" + ours, Local: true, CurrentBefore: 1, CurrentAfter: 1}
		}
		r.append(events...)
		total += burst * servers
		w.waitFor("events are missing", func() bool { return arrived() >= total })
	}
	send() // connections
	_ = k
	start := cpuTime(b)
	b.ResetTimer()
	for range b.N {
		send()
	}
	b.StopTimer()
	used := cpuTime(b) - start
	b.ReportMetric(float64(used.Microseconds())/float64(b.N*burst*servers), "cpu-µs/delivery")
	b.ReportMetric(float64(used.Microseconds())/1000/float64(b.N*burst), "cpu-ms/event")
}
