// Package measure takes the time and the resources that a piece of work costs:
// latencies, CPU time and memory of a server's processes from /proc, and what
// PostgreSQL counted.
package measure

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ticksPerSecond is USER_HZ, in which Linux reports process times to user space;
// it is 100 on every architecture that Go runs on (proc(5)).
const ticksPerSecond = 100

// process is one row of /proc/PID/stat.
type process struct {
	pid, parent int
	name        string
	cpu         time.Duration // own, and of children that ended and were waited for
}

func readStat(pid int) (process, error) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return process{}, err
	}
	return parseStat(raw)
}

// parseStat reads pid, comm, ppid, utime, stime, cutime and cstime. The name is
// in parentheses and may hold anything, parentheses and spaces included.
func parseStat(raw []byte) (process, error) {
	open, end := bytes.IndexByte(raw, '('), bytes.LastIndexByte(raw, ')')
	if open < 0 || end < open {
		return process{}, fmt.Errorf("stat: no name in %q", raw)
	}
	p := process{name: string(raw[open+1 : end])}
	var err error
	if p.pid, err = strconv.Atoi(strings.TrimSpace(string(raw[:open]))); err != nil {
		return process{}, fmt.Errorf("stat: pid: %w", err)
	}
	f := strings.Fields(string(raw[end+1:])) // f[0] is field 3, state
	if len(f) < 15 {
		return process{}, fmt.Errorf("stat: %d fields in %q", len(f), raw)
	}
	if p.parent, err = strconv.Atoi(f[1]); err != nil {
		return process{}, fmt.Errorf("stat: ppid: %w", err)
	}
	var ticks int64
	for _, s := range f[11:15] { // fields 14 to 17
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return process{}, fmt.Errorf("stat: times: %w", err)
		}
		ticks += n
	}
	p.cpu = time.Duration(ticks) * time.Second / ticksPerSecond
	return p, nil
}

// Target names the processes of a server.
type Target struct {
	PIDs  []int // these alone
	Trees []int // these and all that descend from them
}

// Empty tells that there is nothing to watch.
func (t Target) Empty() bool { return len(t.PIDs) == 0 && len(t.Trees) == 0 }

// processes lists the target's living processes. A process that was named and
// does not exist is an error: its cost would silently be left out.
func (t Target) processes() ([]process, error) {
	found := map[int]process{}
	for _, pid := range append(append([]int(nil), t.PIDs...), t.Trees...) {
		p, err := readStat(pid)
		if err != nil {
			return nil, fmt.Errorf("process %d: %w", pid, err)
		}
		found[pid] = p
	}
	if len(t.Trees) > 0 {
		if err := descendants(t.Trees, found); err != nil {
			return nil, err
		}
	}
	out := make([]process, 0, len(found))
	for _, p := range found {
		out = append(out, p)
	}
	return out, nil
}

func descendants(roots []int, found map[int]process) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	children := map[int][]process{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p, err := readStat(pid)
		if err != nil {
			if gone(err) {
				continue
			}
			return err
		}
		children[p.parent] = append(children[p.parent], p)
	}
	queue := append([]int(nil), roots...)
	for len(queue) > 0 {
		pid := queue[0]
		queue = queue[1:]
		for _, c := range children[pid] {
			if _, ok := found[c.pid]; !ok {
				queue = append(queue, c.pid)
			}
			found[c.pid] = c
		}
	}
	return nil
}

// gone tells that a process ended between two looks.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}

// Memory of a server in bytes. PSS counts a page that n processes share as 1/n
// in each, which is what a PostgreSQL's shared buffers need; it is 0 where the
// kernel does not let us read it.
type Memory struct {
	RSS int64 `json:"rss"`
	PSS int64 `json:"pss"`
}

// Memory reads the target's memory.
func (t Target) Memory() (Memory, error) {
	procs, err := t.processes()
	if err != nil {
		return Memory{}, err
	}
	var sum Memory
	for _, p := range procs {
		rss, pss, err := readMemory(p.pid)
		if err != nil {
			if gone(err) {
				continue
			}
			return Memory{}, err
		}
		sum.RSS += rss
		sum.PSS += pss
	}
	return sum, nil
}

func readMemory(pid int) (rss, pss int64, err error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err == nil {
		rss, pss = kilobytes(raw, "Rss:"), kilobytes(raw, "Pss:")
		if rss > 0 {
			return rss, pss, nil
		}
	}
	raw, err = os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	return kilobytes(raw, "VmRSS:"), 0, nil
}

// kilobytes finds "label   123 kB" and returns bytes, or 0.
func kilobytes(raw []byte, label string) int64 {
	for line := range bytes.Lines(raw) {
		rest, ok := bytes.CutPrefix(line, []byte(label))
		if !ok {
			continue
		}
		f := bytes.Fields(rest)
		if len(f) == 0 {
			return 0
		}
		n, err := strconv.ParseInt(string(f[0]), 10, 64)
		if err != nil {
			return 0
		}
		return n << 10
	}
	return 0
}

// CPU reads the CPU time that the target has used, by process name.
func (t Target) CPU() (map[string]time.Duration, error) {
	procs, err := t.processes()
	if err != nil {
		return nil, err
	}
	out := map[string]time.Duration{}
	for _, p := range procs {
		out[p.name] += p.cpu
	}
	return out, nil
}

func total(m map[string]time.Duration) time.Duration {
	var sum time.Duration
	for _, d := range m {
		sum += d
	}
	return sum
}
