package hugerooms

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"hanse/tools/cluster"
	"hanse/tools/loadgen/measure"
)

// costs is the processor time that has been used, by what it was used for.
type costs map[string]time.Duration

// here names the costs of this process: people, proxies and the other servers of the room.
const here = "test"

// spent reads what the processes of clusters and this one have used.
func spent(t *testing.T, clusters ...*cluster.Cluster) costs {
	t.Helper()
	trees := map[string][]int{}
	for _, c := range clusters {
		for name, pid := range c.PIDs() {
			kind, _, _ := strings.Cut(name, "-")
			trees[kind] = append(trees[kind], pid)
		}
	}
	out := costs{}
	add := func(kind string, what measure.Target) {
		cpu, err := what.CPU()
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range cpu {
			out[kind] += d
		}
	}
	for kind, pids := range trees {
		add(kind, measure.Target{Trees: pids})
	}
	add(here, measure.Target{PIDs: []int{os.Getpid()}})
	return out
}

func (c costs) since(before costs) costs {
	out := costs{}
	for kind, d := range c {
		out[kind] = d - before[kind]
	}
	return out
}

// String lists what is worth it, as shares of all that was used.
func (c costs) String() string {
	var all time.Duration
	for _, d := range c {
		all += d
	}
	kinds := slices.SortedFunc(maps.Keys(c), func(a, b string) int { return int(c[b] - c[a]) })
	out := fmt.Sprintf("%.1f s of CPU:", all.Seconds())
	for _, kind := range kinds {
		if share := 100 * c[kind] / max(all, 1); share > 0 {
			out += fmt.Sprintf(" %s %d %%", kind, share)
		}
	}
	return out
}
