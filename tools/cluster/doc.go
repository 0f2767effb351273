// Package cluster runs whole Hanse clusters on this machine, as an operator would: real PostgreSQL, NATS and Redis
// servers, several replicas of each role as processes of their own, a reverse proxy with TLS before them. Tests
// kill, stop and restart any part of it; 'make run-cluster' just runs one.
//
// Everything listens on loopback addresses only. Server names are "localhost:<port>" or "127.0.0.1:<port>", so that
// several clusters federate without DNS; their certificates come from one CA made for the occasion.
//
// All processes die with the one that started them.
package cluster
