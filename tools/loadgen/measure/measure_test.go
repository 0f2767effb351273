package measure

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	p, err := parseStat([]byte("77 (postgres: a (b) c) S 5 77 77 0 -1 4194560 1 2 3 4 100 20 3000 400 20 0 1 0 9 0 0\n"))
	if err != nil {
		t.Fatal(err)
	}
	if p.pid != 77 || p.parent != 5 || p.name != "postgres: a (b) c" || p.cpu != 35200*time.Millisecond {
		t.Errorf("%+v", p)
	}
	for _, bad := range []string{"", "77", "77 (x", "77 (x) S 5", "x (x) S 5 77 77 0 -1 4194560 1 2 3 4 100 20 3000 400"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

// A child's CPU time counts while it runs and after it ended.
func TestTreeCountsChildren(t *testing.T) {
	tree := Target{Trees: []int{os.Getpid()}}
	before, err := tree.CPU()
	if err != nil {
		t.Fatal(err)
	}
	const burn = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"
	if err := exec.Command("sh", "-c", burn).Run(); err != nil {
		t.Fatal(err)
	}
	after, err := tree.CPU()
	if err != nil {
		t.Fatal(err)
	}
	if used := total(after) - total(before); used < 20*time.Millisecond {
		t.Errorf("%v", used)
	}
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	procs, err := tree.processes()
	if err != nil {
		t.Fatal(err)
	}
	seen := false
	for _, p := range procs {
		seen = seen || p.pid == child.Process.Pid
	}
	if !seen {
		t.Error("the child is not in the tree")
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := child.Wait(); err == nil {
		t.Error("killed, yet no error")
	}
}

func TestMemoryAndUnknownProcess(t *testing.T) {
	m, err := Target{PIDs: []int{os.Getpid()}}.Memory()
	if err != nil || m.RSS < 1<<20 {
		t.Errorf("%+v %v", m, err)
	}
	if _, err := (Target{PIDs: []int{1 << 30}}).CPU(); err == nil {
		t.Error("a process that is not there costs nothing?")
	}
}

func TestSpan(t *testing.T) {
	child := exec.Command("sh", "-c", "i=0; while [ $i -lt 1000000 ]; do i=$((i+1)); done; sleep 60")
	m := &Meter{Target: Target{Trees: []int{os.Getpid()}}, QuietTimeout: 10 * time.Second}
	span, err := m.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	u, err := span.Stop(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if u.CPU < 0.05 || u.CPU <= u.CPUDuring {
		t.Errorf("work after the last answer is not counted: %+v", u)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // killed
}

func TestLatency(t *testing.T) {
	var r Recorder
	if l := r.Summary("none"); l.Count != 0 || l.Max != 0 {
		t.Errorf("%+v", l)
	}
	for i := 100; i > 0; i-- {
		r.Add(time.Duration(i) * time.Millisecond)
	}
	l := r.Summary("x")
	if l.Count != 100 || l.P50 != 50 || l.P90 != 90 || l.P99 != 99 || l.Max != 100 || l.Mean != 50.5 {
		t.Errorf("%+v", l)
	}
}
