// Package faults breaks parts of running clusters under load and keeps exact books: each acknowledged event reaches
// every member once, in one order, and stays in the history.
package faults
