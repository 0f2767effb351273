// Package mxclient is a lean Matrix client for tests and load: one HTTP exchange
// per call, no cache, no database, no crypto.
//
// A [Client] speaks for one account (or for none, before login). Clients that
// are made by [Client.As] share their connections. A failed request is an
// [*Error] when the server answered, else the transport's error.
//
// Retrying is off unless Options.Retry says otherwise; with it, 429 answers are
// waited out as Retry-After says, and 5xx answers and transport errors are
// repeated only for requests that are idempotent (GET, PUT, DELETE): a send has
// a transaction id and may be repeated, a createRoom may not.
//
// Hooks: Options.Transport takes any RoundTripper, such as the one of
// tools/specapi that validates each answer.
package mxclient
