package userdb

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"hanse/pkg/matrix/id"
	"hanse/pkg/pg/pgtest"
	logv1 "hanse/proto/log/v1"
)

// heard is a bus that keeps what was said.
type heard struct {
	mu    sync.Mutex
	seqs  map[string]int64
	auth  int
	wakes int
}

func (h *heard) PublishUsers(_ uint32, users ...*logv1.UserSeq) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, u := range users {
		h.seqs[u.UserId] = max(h.seqs[u.UserId], u.Seq)
	}
	return nil
}

func (h *heard) PublishAuth(*logv1.AuthInvalidation) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.auth++
	return nil
}

func (h *heard) WakeFedout(uint32) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wakes++
	return nil
}

func open(t *testing.T) (*DB, *heard) {
	t.Helper()
	h := &heard{seqs: make(map[string]int64)}
	return New(pgtest.NewSharded(t, 2), h), h
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Many writers of one user: positions are dense, each change lies at a position of its own, and nobody who has read up
// to a position finds anything new below it.
func TestStreamOrder(t *testing.T) {
	d, h := open(t)
	ctx := t.Context()
	const u = id.User("@a:x.example")
	const writers, each = 8, 20
	stop := make(chan struct{})
	var reader errgroup.Group
	reader.Go(func() error {
		seen := make(map[string]bool)
		upTo := int64(0)
		for {
			select {
			case <-stop:
				return nil
			default:
			}
			seq, err := d.Seq(ctx, u)
			if err != nil {
				return err
			}
			all, err := d.AccountDataSince(ctx, u, 0, seq)
			if err != nil {
				return err
			}
			for _, e := range all {
				if e.Seq <= upTo && !seen[e.Type] {
					return fmt.Errorf("%s appeared at %d after %d was read", e.Type, e.Seq, upTo)
				}
				seen[e.Type] = true
			}
			upTo = seq
		}
	})
	var g errgroup.Group
	for w := range writers {
		g.Go(func() error {
			for n := range each {
				if _, err := d.PutAccountData(ctx, u, "", fmt.Sprintf("t%d.%d", w, n), []byte(`{}`)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	must(t, g.Wait())
	close(stop)
	must(t, reader.Wait())
	seq, err := d.Seq(ctx, u)
	must(t, err)
	if seq != writers*each || h.seqs[string(u)] != seq {
		t.Errorf("stream at %d, announced %d, want %d", seq, h.seqs[string(u)], writers*each)
	}
	data, err := d.AccountDataSince(ctx, u, 0, seq)
	must(t, err)
	for i, e := range data {
		if e.Seq != int64(i)+1 {
			t.Fatalf("entry %d at %d", i, e.Seq)
		}
	}
}

// To-device messages to many users from many senders at once: no deadlock, nothing lost, none twice.
func TestToDeviceFromManySenders(t *testing.T) {
	d, _ := open(t)
	ctx := t.Context()
	var users []id.User
	for i := range 10 {
		u := id.User(fmt.Sprintf("@u%d:x.example", i))
		users = append(users, u)
		_, err := d.PutDevice(ctx, u, "D", nil)
		must(t, err)
	}
	var g errgroup.Group
	const senders, each = 6, 10
	for s := range senders {
		g.Go(func() error {
			for n := range each {
				var msgs []ToDevice
				for i := range users { // each in an order of its own
					msgs = append(msgs, ToDevice{User: users[(i+s)%len(users)], Device: AllDevices, Sender: users[s], Type: "t", Content: []byte(`{}`)})
				}
				txn := &Txn{User: users[s], Device: "D", Endpoint: "e", ID: fmt.Sprint(n)}
				// Twice at the same time, by two workers, and once more, as a client that lost the answer does.
				var twice errgroup.Group
				for range 2 {
					twice.Go(func() error { return d.SendToDevice(ctx, msgs, txn) })
				}
				if err := errors.Join(twice.Wait(), d.SendToDevice(ctx, msgs, txn)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	must(t, g.Wait())
	for _, u := range users {
		msgs, _, err := d.ToDeviceSince(ctx, u, "D", 0, 1<<40, 1000, 1<<20)
		must(t, err)
		if len(msgs) != senders*each {
			t.Errorf("%s has %d messages, want %d", u, len(msgs), senders*each)
		}
	}
}

// Client-server API, "Extensions to /sync" of "Send-to-Device messaging": a server limits how many messages it returns. What is read
// at once is bounded in messages and bytes, and never lacks a part of a request.
func TestToDeviceIsReadInParts(t *testing.T) {
	d, _ := open(t)
	ctx := t.Context()
	const u = id.User("@a:x.example")
	_, err := d.PutDevice(ctx, u, "D", nil)
	must(t, err)
	// Requests of 1, 2, 1, 1 and 3 messages, of 10 bytes each but for one of 50.
	for _, sizes := range [][]int{{10}, {10, 10}, {50}, {10}, {10, 10, 10}} {
		var msgs []ToDevice
		for _, n := range sizes {
			msgs = append(msgs, ToDevice{User: u, Device: "D", Sender: u, Type: "t", Content: []byte(fmt.Sprintf("%q", strings.Repeat("x", n-2)))})
		}
		must(t, d.SendToDevice(ctx, msgs, nil))
	}
	upTo, err := d.Seq(ctx, u)
	must(t, err)
	for _, c := range []struct {
		messages int
		bytes    int64
		want     []int // how many each read returns
	}{{100, 1000, []int{8}}, {2, 1000, []int{1, 2, 2, 3}}, {3, 1000, []int{3, 2, 3}}, {100, 30, []int{3, 1, 1, 3}}, {100, 40, []int{3, 1, 4}}, {1, 1, []int{1, 2, 1, 1, 3}}} {
		var got []int
		for end := int64(0); end < upTo; {
			var msgs []ToDevice
			msgs, end, err = d.ToDeviceSince(ctx, u, "D", end, upTo, c.messages, c.bytes)
			must(t, err)
			for _, m := range msgs {
				if len(m.Content) < 10 || m.Seq > end {
					t.Fatalf("%d messages, %d bytes, up to %d: %+v", c.messages, c.bytes, end, m)
				}
			}
			got = append(got, len(msgs))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%d messages, %d bytes: reads of %v, want %v", c.messages, c.bytes, got, c.want)
		}
	}
}

// A one-time key is given out once, however many ask.
func TestOneTimeKeysAreClaimedOnce(t *testing.T) {
	d, _ := open(t)
	ctx := t.Context()
	const u = id.User("@a:x.example")
	up := KeyUpload{User: u, Device: "D"}
	const keys = 40
	for i := range keys {
		up.OneTime = append(up.OneTime, OneTimeKey{"alg", fmt.Sprint(i), []byte(`"k"`)})
	}
	_, err := d.UploadKeys(ctx, up)
	must(t, err)
	var mu sync.Mutex
	got := make(map[string]int)
	var g errgroup.Group
	for range 8 {
		g.Go(func() error {
			for range 8 {
				claimed, err := d.ClaimKeys(ctx, u, map[id.Device]string{"D": "alg"})
				if err != nil {
					return err
				}
				mu.Lock()
				for _, k := range claimed {
					got[k.ID]++
				}
				mu.Unlock()
			}
			return nil
		})
	}
	must(t, g.Wait())
	if len(got) != keys {
		t.Errorf("%d different keys, want %d", len(got), keys)
	}
	for k, n := range got {
		if n != 1 {
			t.Errorf("key %s was given out %d times", k, n)
		}
	}
}

// A task is there until it is finished; one that was replaced meanwhile stays.
func TestTasks(t *testing.T) {
	d, _ := open(t)
	ctx := t.Context()
	put := func(payload string) (task Task) {
		must(t, d.Within(ctx, "@a:x.example", func(tx *Tx) (err error) {
			task, err = tx.PutTask(ctx, Task{User: tx.User, Kind: TaskProfile, Payload: []byte(payload)})
			return err
		}))
		return task
	}
	take := func(after time.Duration) []Task {
		tasks, err := d.TakeTasks(ctx, time.Now().Add(after), 10)
		must(t, err)
		return tasks
	}
	first := put("1")
	if got := take(0); len(got) != 0 {
		t.Errorf("taken within the grace: %v", got)
	}
	second := put("2")
	must(t, d.FinishTask(ctx, first))
	got := take(2 * taskGrace)
	if len(got) != 1 || string(got[0].Payload) != "2" || got[0].Version != second.Version || got[0].Attempts != 1 {
		t.Fatalf("taken: %+v", got)
	}
	if again := take(2 * taskGrace); len(again) != 0 {
		t.Errorf("taken twice: %+v", again)
	}
	if again := take(time.Hour); len(again) != 1 || again[0].Attempts != 2 {
		t.Errorf("not taken again: %+v", again)
	}
	must(t, d.FinishTask(ctx, got[0]))
	if next := put("3"); next.Version <= got[0].Version {
		t.Errorf("version %d was used again", next.Version)
	} else {
		must(t, d.FinishTask(ctx, next))
	}
	if left := take(24 * time.Hour); len(left) != 0 {
		t.Errorf("left: %+v", left)
	}
}

// What belongs to a device goes with it.
func TestDeleteDevices(t *testing.T) {
	d, h := open(t)
	ctx := t.Context()
	const u = id.User("@a:x.example")
	for _, dev := range []id.Device{"A", "B"} {
		_, err := d.AddLogin(ctx, Login{User: u, Device: dev, Access: TokenHash{dev[0]}})
		must(t, err)
		_, err = d.UploadKeys(ctx, KeyUpload{User: u, Device: dev, Identity: []byte(`{"user_id":"` + string(u) + `"}`),
			OneTime: []OneTimeKey{{"alg", "1", []byte(`"k"`)}}, Fallbacks: []OneTimeKey{{"alg", "f", []byte(`"f"`)}}})
		must(t, err)
	}
	must(t, d.SendToDevice(ctx, []ToDevice{{User: u, Device: AllDevices, Sender: u, Type: "t", Content: []byte(`{}`)}}, nil))
	tasks, err := d.DeleteDevices(ctx, u, []id.Device{"A", "NONE"})
	must(t, err)
	if len(tasks) != 1 || tasks[0].Key != "A" || h.auth == 0 {
		t.Errorf("tasks %+v", tasks)
	}
	for _, table := range []string{"device", "device_key", "one_time_key", "fallback_key", "to_device", "access_token"} {
		n := 0
		for _, pool := range d.shards.All() {
			var k int
			must(t, pool.QueryRow(ctx, `SELECT count(*) FROM `+table).Scan(&k))
			n += k
		}
		if n != 1 {
			t.Errorf("%s has %d rows, want those of the other device", table, n)
		}
	}
	keys, err := d.KeysOf(ctx, []id.User{u}, u)
	must(t, err)
	if len(keys[u].Devices) != 1 {
		t.Errorf("keys: %v", keys[u].Devices)
	}
	if _, err := d.Device(ctx, u, "A"); !errors.Is(err, ErrNotFound) {
		t.Errorf("device: %v", err)
	}
}

func TestWords(t *testing.T) {
	for in, want := range map[string]string{
		"Anna Maria": "[anna maria]", "a.b_c-d": "[a b c d]", "Żółw ÉCLAIR": "[żółw éclair]", "": "[]", "  %_ ": "[]", "x x": "[x]",
	} {
		if got := fmt.Sprint(Words(in)); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// Client-server API, "Push Rules": of the times in which everything was muted only a few are kept, and none of them is lost.
func TestMutedTimes(t *testing.T) {
	ctx := t.Context()
	d, _ := open(t)
	const u = id.User("@u:a.example")
	change := func(at int64, was, muted bool) {
		t.Helper()
		err := d.ChangePushRules(ctx, u, "m.push_rules", []int64{at, at * 10}, func([]byte) ([]byte, bool, bool, error) {
			return []byte(`{}`), was, muted, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var want []MutedTime
	for i := range int64(12) {
		change(i*10+1, false, true)
		change(i*10+2, true, true)
		change(i*10+5, true, false)
		change(i*10+6, false, false)
		want = append(want, MutedTime{Since: []int64{i*10 + 1, i*100 + 10}, Until: []int64{i*10 + 5, i*100 + 50}})
	}
	change(500, false, true)
	want = append(want, MutedTime{Since: []int64{500, 5000}})
	want[4].Since = want[0].Since // the oldest became one
	got, err := d.MutedTimes(ctx, u)
	if err != nil || !slices.EqualFunc(got, want[4:], MutedTime.Equal) {
		t.Errorf("%v %v, want %v", got, err, want[4:])
	}
}
