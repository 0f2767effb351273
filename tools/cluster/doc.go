// Package cluster runs whole Hanse clusters on this machine, as an operator would: real PostgreSQL, NATS and Redis servers,
// several replicas of each role as separate processes, and a reverse proxy with TLS in front of them. Tests kill, stop and restart
// any part of it; 'make run-cluster' just runs one.
//
// Everything listens on loopback addresses only. Server names are "localhost:<port>" or "127.0.0.1:<port>", so that several
// clusters federate without DNS; one CA that is created for the run signs their certificates.
//
// All processes end with the process that started them.
package cluster
