package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// Compare prints, for each number that both reports have, its two values and the
// ratio of the second to the first.
func Compare(w io.Writer, a, b *Report) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if a.Scenario != b.Scenario {
		fmt.Fprintf(tw, "scenarios differ: %s and %s\n", a.Scenario, b.Scenario)
	}
	for _, k := range slices.Sorted(maps.Keys(a.Params)) {
		if x, y := fmt.Sprint(a.Params[k]), fmt.Sprint(b.Params[k]); x != y {
			fmt.Fprintf(tw, "parameters differ: %s is %s and %s\n", k, x, y)
		}
	}
	fmt.Fprintf(tw, "\t%s\t%s\tratio\n", name(a, "first"), name(b, "second"))
	na, nb := a.Numbers(), b.Numbers()
	for _, k := range slices.Sorted(maps.Keys(na)) {
		y, ok := nb[k]
		if !ok {
			continue
		}
		ratio := "-"
		if na[k] != 0 {
			ratio = fmt.Sprintf("%.2f", y/na[k])
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", k, number(na[k]), number(y), ratio)
	}
	return tw.Flush()
}

func name(r *Report, otherwise string) string {
	if r.Label != "" {
		return r.Label
	}
	return otherwise
}
