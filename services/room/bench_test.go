package room

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	roomv1 "hanse/proto/room/v1"
)

// cpu returns the processor time of this process and of the backends of the test's databases.
func (c *cluster) cpu() (own, database time.Duration) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		c.tb.Fatal(err)
	}
	own = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	rows, err := c.db.For(0).Query(context.Background(), `SELECT pid FROM pg_stat_activity WHERE datname = current_database()`)
	if err != nil {
		c.tb.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var pid int
		if err := rows.Scan(&pid); err != nil {
			c.tb.Fatal(err)
		}
		database += processTime(pid)
	}
	return own, database
}

// processTime reads utime and stime of a process on this machine (proc(5)); 0 if it is elsewhere.
func processTime(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	var u, s int64
	f := strings.Fields(rest)
	if len(f) > 12 {
		fmt.Sscan(f[11], &u)
		fmt.Sscan(f[12], &s)
	}
	return time.Duration(u+s) * 10 * time.Millisecond
}

func histogram(h prometheus.Histogram) (count uint64, sum float64) {
	var m dto.Metric
	if err := h.Write(&m); err != nil {
		panic(err)
	}
	return m.Histogram.GetSampleCount(), m.Histogram.GetSampleSum()
}

// measure runs op b.N times in so many goroutines, and reports processor time and batch sizes.
func (c *cluster) measure(b *testing.B, parallel int, op func(worker, n int) error) {
	w := c.workers[0]
	commits0, entries0 := histogram(w.metrics.events)
	own0, db0 := c.cpu()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for g := range parallel {
		wg.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				if n >= b.N {
					return
				}
				if err := op(g, n); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	own, db := c.cpu()
	commits, entries := histogram(w.metrics.events)
	b.ReportMetric(float64(own-own0)/1e3/float64(b.N), "go-us/op")
	b.ReportMetric(float64(db-db0)/1e3/float64(b.N), "pg-us/op")
	b.ReportMetric((entries-entries0)/max(1, float64(commits-commits0)), "entries/commit")
}

// BenchmarkSend sends messages from 1, 8, 64 and 256 senders into rooms of 50 members.
func BenchmarkSend(b *testing.B) {
	c := newCluster(b, 1)
	const rooms, members = 16, 50
	var roomIDs []string
	for range rooms {
		roomIDs = append(roomIDs, c.create("12", alice, "public"))
		for m := range members - 1 {
			if _, err := c.join(roomIDs[len(roomIDs)-1], user(m)); err != nil {
				b.Fatal(err)
			}
		}
	}
	for _, parallel := range []int{1, 8, 64, 256} {
		b.Run(fmt.Sprintf("senders=%d", parallel), func(b *testing.B) {
			var keys atomic.Int64
			c.measure(b, parallel, func(g, n int) error {
				sender := user(g % (members - 1))
				_, err := c.workers[0].Send(context.Background(), &roomv1.SendRequest{RoomId: roomIDs[n%rooms],
					Cause:  &roomv1.Cause{UserId: sender, DeviceId: b.Name(), TxnId: fmt.Sprint(time.Now().UnixNano(), keys.Add(1))},
					Events: []*roomv1.EventIntent{{Type: "m.room.message", Content: []byte(`{"msgtype":"m.text","body":"hello world"}`), Sender: sender}}})
				return err
			})
		})
	}
}

// BenchmarkJoin lets one user after the other into one room.
func BenchmarkJoin(b *testing.B) {
	c := newCluster(b, 1)
	roomID := c.create("12", alice, "public")
	var users atomic.Int64
	for _, parallel := range []int{1, 32} {
		b.Run(fmt.Sprintf("parallel=%d", parallel), func(b *testing.B) {
			c.measure(b, parallel, func(_, _ int) error {
				u := fmt.Sprintf("@joiner%d:hanse.test", users.Add(1))
				_, err := c.workers[0].Join(context.Background(), &roomv1.JoinRequest{RoomId: roomID, UserId: u, Cause: newCause(u)})
				return err
			})
		})
	}
}

// BenchmarkCreate creates private rooms.
func BenchmarkCreate(b *testing.B) {
	c := newCluster(b, 1)
	c.measure(b, 4, func(_, _ int) error {
		_, err := c.workers[0].Create(context.Background(), &roomv1.CreateRequest{Creator: alice, RoomVersion: "12", Cause: newCause(alice),
			OriginServerTs: time.Now().UnixMilli(), Events: []*roomv1.EventIntent{
				stateIntent(alice, "m.room.member", alice, `{"membership":"join"}`),
				stateIntent(alice, "m.room.power_levels", "", `{"users":{}}`),
				stateIntent(alice, "m.room.join_rules", "", `{"join_rule":"invite"}`),
				stateIntent(alice, "m.room.history_visibility", "", `{"history_visibility":"shared"}`),
				stateIntent(alice, "m.room.guest_access", "", `{"guest_access":"can_join"}`),
				stateIntent(alice, "m.room.encryption", "", `{"algorithm":"m.megolm.v1.aes-sha2"}`),
				stateIntent(alice, "m.room.name", "", `{"name":"a room"}`),
			}})
		return err
	})
}

// BenchmarkSendMembers sends into rooms of growing size: the cost must not grow with it.
func BenchmarkSendMembers(b *testing.B) {
	c := newCluster(b, 1)
	for _, members := range []int{10, 100, 1000, 10000} {
		roomID := c.create("12", alice, "public")
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for m := g; m < members-1; m += 8 {
					if _, err := c.join(roomID, user(m)); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		b.Run(fmt.Sprintf("members=%d", members), func(b *testing.B) {
			var keys atomic.Int64
			c.measure(b, 8, func(g, _ int) error {
				_, err := c.workers[0].Send(context.Background(), &roomv1.SendRequest{RoomId: roomID,
					Cause:  &roomv1.Cause{UserId: user(g), DeviceId: b.Name(), TxnId: fmt.Sprint(time.Now().UnixNano(), keys.Add(1))},
					Events: []*roomv1.EventIntent{{Type: "m.room.message", Content: []byte(`{"msgtype":"m.text","body":"hello world"}`), Sender: user(g)}}})
				return err
			})
		})
	}
}
