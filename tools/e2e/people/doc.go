// Package people lets tests act as people do: through Matrix clients that others wrote, each with its own crypto and
// stores. There are two kinds, mautrix-go and matrix-js-sdk; a [Host] is a process with one of them, a [Person] a
// device in it. The process reads requests as lines of JSON on standard input and writes to standard output
//
//	{"id":1,"as":"p1","do":"send","in":{...}}            request
//	{"id":1,"out":{...}}                                 answer, or {"id":1,"failure":{"status":403,"code":"M_FORBIDDEN","message":""}}
//	{"as":"p1","note":"timeline","room":"!a:b",...}      note: what a sync brought
//
// The operations are the same for both kinds, so that every scenario can be played by any mixture of them. A Person
// remembers all notes; waiting for one looks at those that have come too.
package people
