// Package e2e tests Hanse from outside, as its users meet it: two clusters that federate, each with its own server
// name, TLS and keys, and Matrix clients that others wrote, of two kinds in every mixture.
//
// The same scenarios are played on clusters of two replicas a role (TestCluster) and on servers with all roles in one
// process (TestAllInOne); HANSE_E2E_MODE=cluster or =single picks one of them. Every exchange of the client and the
// federation API in any scenario is held against the specification's OpenAPI data; what does not fit fails the test.
//
// HANSE_E2E_SERVERS=1 puts everybody on one server, which tells federation's troubles from others; HANSE_E2E_KEEP=1
// keeps data and logs; HANSE_E2E_SEEN names a file that gets the exercised operations with their answers' statuses.
//
// Folder world starts the servers, people are the clients, browser lets two of them use Chromium, faults does harm to a cluster under
// load.
package e2e
