package resolve

import (
	"context"
	"errors"
	"fmt"
)

// Budget bounds what one resolution may spend. A field that is 0 sets no bound.
type Budget struct {
	// Visits of events and of links between them; one costs some 10 to 30 ns.
	Visits int
	// Events that are loaded; one costs its memory, and a replay of some 2 µs.
	Events int
}

// Stats say what a resolution was about and what it spent.
type Stats struct {
	Conflicted int // keys on which the states differ
	Full       int // events of the full conflicted set; of the conflicts in version 1
	Visited    int // events and links of the auth graph
	Loaded     int // events that the source gave
	Calls      int // calls of the source
	// Verdicts are the auth events for which it mattered whether they are rejected, by number, and what the source said: the
	// only part of what the result depends on that may change.
	Verdicts map[int64]bool
}

// ErrBudget is what a [*BudgetError] wraps.
var ErrBudget = errors.New("state resolution costs more than its budget")

// BudgetError says that a resolution was given up, and what it had spent. The same resolution with a larger budget may
// succeed.
type BudgetError struct{ Spent Stats }

// Error implements error.
func (e *BudgetError) Error() string {
	return fmt.Sprintf("%v: %d keys in conflict, %d visits, %d events to load", ErrBudget, e.Spent.Conflicted, e.Spent.Visited, e.Spent.Loaded)
}

// Unwrap makes errors.Is(err, [ErrBudget]) true.
func (e *BudgetError) Unwrap() error { return ErrBudget }

// meter counts what a resolution spends, and stops it.
type meter struct {
	Stats
	ctx     context.Context
	budget  Budget
	checked int // Visited when the context was last looked at
}

// checkEvery is the number of visits after which the context is looked at: some 100 µs.
const checkEvery = 2048

// replayVisits is what a replay counts for.
const replayVisits = 32

// visit counts n visits.
func (m *meter) visit(n int) error {
	m.Visited += n
	if m.budget.Visits > 0 && m.Visited > m.budget.Visits {
		return &BudgetError{m.Stats}
	}
	if m.Visited-m.checked < checkEvery {
		return nil
	}
	m.checked = m.Visited
	return m.ctx.Err()
}

// load counts n events and a call of the source.
func (m *meter) load(n int) error {
	m.Loaded += n
	m.Calls++
	if m.budget.Events > 0 && m.Loaded > m.budget.Events {
		return &BudgetError{m.Stats}
	}
	return m.ctx.Err()
}
