// Package specapi checks HTTP exchanges against the OpenAPI data of the Matrix
// specification (data/api/client-server and data/api/server-server of matrix-spec).
//
// Model. A [Spec] knows every documented operation as (method, path template).
// Validate finds the operation of an exchange and holds the answer against it:
// the status must be documented for the operation or be a standard Matrix error
// (Client-Server API section "Standard error response"), JSON bodies must be
// JSON, have the JSON content type and satisfy the documented schema.
//
// Strictness. The schemas are taken as written, with the corrections of the
// quirks listed at [prepare]; formats such as mx-user-id are asserted. Paths
// below an unstable prefix, and paths that are not Matrix's (a server's own
// /_synapse, /metrics), are not judged. A 2xx answer at a stable Matrix path
// that the specification does not have is an error.
//
// Data. See [Locate]; without it the copy that is embedded here is used.
//
// Cost. Files are parsed at Load, in parallel; a schema is compiled the first
// time that an answer needs it and kept. A Spec is safe for concurrent use.
package specapi
