//go:build goolm

// Command gomatrix lets tests act through mautrix-go, a Matrix client library that others wrote, with its crypto in
// pure Go. It reads requests and writes answers and notes as lines of JSON; package people describes them.
//
// Build it with the tag goolm, without which mautrix-go wants a C library.
package main
