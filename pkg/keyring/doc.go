// Package keyring verifies what other servers signed: events, requests, objects.
//
// # Model
//
// Verify keys are looked for in this worker's memory, then in table server_key, then asked of fedout, which fetches
// them from the server itself (server-server API, "Retrieving server keys"). Keys of our own servers come from the
// registry of our servers. A key is current until its valid_until_ts, but for no longer than a week after it was
// fetched, or old: then it verifies events from before its end, and nothing else.
//
// # Invariants
//
// Only fedout writes server_key, and only keys out of answers that carry a signature by their own server. A newer
// answer never shortens the life of a key that it still names. From room version 5 on an event must have been made
// while its key was valid.
//
// # Failures
//
// A key that cannot be had is ErrNoKey, which may pass; a signature that does not fit is signing.ErrSignature, which
// never does. An event that names many keys costs no more than a few look-ups.
package keyring
