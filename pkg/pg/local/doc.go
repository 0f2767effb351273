// Package local runs private PostgreSQL servers from the programs that are installed on this machine: for a Hanse
// that is to start with one command, for clusters on one machine, and for tests.
//
// Model. A server is a data directory, made by initdb when it is first started, and a child process. It listens on
// a Unix socket in a directory of its own, never on the network; the operating system says who connects (peer), and
// only the account that owns the data directory, and root, may.
//
// PostgreSQL refuses to run as root. When Hanse does, the server runs as the owner of its data directory, at first
// the account "postgres". That account need not be able to reach the directory by its path (below the home of root): the
// server inherits the open directory and works in that.
//
// The variables of libpq (PGPORT, PGSERVICE and the like) are meant for other servers: Start and Attach take them out of
// the environment of this process.
//
// Failures. The child dies with its parent, cleanly (a fast shutdown). If one is found alive all the same, its
// parent killed a moment ago, the start waits for its end. An initdb that was interrupted starts anew. A data
// directory of another major version needs the programs of that version.
package local
