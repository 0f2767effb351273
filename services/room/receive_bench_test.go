package room

import (
	"fmt"
	"testing"

	"hanse/pkg/matrix/event"
)

// BenchmarkReceive takes in transactions of 50 events of another server, one after the other: messages on a line, and
// state events of a branch that conflicts with ours in as many keys as it has events. An operation is an event.
func BenchmarkReceive(b *testing.B) {
	const together = 50
	for _, forked := range []bool{false, true} {
		for _, n := range []int{1, together} {
			b.Run(fmt.Sprintf("fork=%t/together=%d", forked, n), func(b *testing.B) {
				f := newBranchingAt(b, "11", forked)
				key := ""
				pdus := make([]*event.PDU, b.N)
				for i := range pdus {
					after := pdus[max(0, i-1):i]
					if key = fmt.Sprint(i); forked {
						pdus[i] = f.event(bert, "org.example.state", &key, `{}`, after...)
					} else {
						pdus[i] = f.message(bert, after...)
					}
				}
				f.a.measure(b, 1, func(_, i int) error {
					if i%n != 0 {
						return nil
					}
					for _, r := range f.send(pdus[i:min(i+n, len(pdus))]...) {
						if r.Error != "" {
							return fmt.Errorf("event: %s", r.Error)
						}
					}
					return nil
				})
			})
		}
	}
}
