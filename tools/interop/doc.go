// Package interop runs a Hanse cluster beside servers that others wrote, a Synapse and a Dendrite, and lets their users meet. It is
// built with the tag interop ('make interop'), as it installs Synapse from PyPI into a virtual environment, and wants Dendrite in bin/.
// What is tested beside which, and ways of other servers that other packages' tests hold, are in docs/interop.md.
//
// # Splits
//
// A fork (fork_test.go) is a room of both servers that people write to on both sides while federation is cut. A cut is for
// both servers and all rooms, so a test works on all its forks in one split: openAll, split, check. After it both must have
// the same state and verdicts; what may differ is in docs/state.md, "Beside Synapse". Verdicts are read from the databases
// (verdicts_test.go); a fork that fails shows its whole graph with them.
//
//   - INTEROP_SPLITS=all: each scenario in all its room versions, made on either server, not in one; a part of names instead of
//     all: those of these names.
//   - INTEROP_SEEDS=n: so many random rooms; INTEROP_SEED=s: the first of them.
//
// The algorithm alone is held against Synapse's code in resolution_test.go, without servers in between: INTEROP_ROOMS=n is how
// many random rooms of each version.
//
// Tests that cut federation or stop a server run alone: they do not call t.Parallel.
package interop
