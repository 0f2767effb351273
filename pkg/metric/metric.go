// Package metric registers Prometheus collectors that several parts of a process may make.
package metric

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Register returns c, or the collector of the same name that is there already. A nil registerer takes nothing.
func Register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg == nil {
		return c
	}
	if err := reg.Register(c); err != nil {
		if are := (prometheus.AlreadyRegisteredError{}); errors.As(err, &are) {
			if old, ok := are.ExistingCollector.(C); ok {
				return old
			}
		}
	}
	return c
}
