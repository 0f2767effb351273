// Package keyring verifies signatures of other servers: on events, requests and objects.
//
// # Model
//
// Verify keys are looked up in this worker's memory, then in table server_key, and then requested from fedout, which fetches
// them from the server itself (server-server API, "Retrieving server keys"). Keys of local servers come from the registry of
// local servers. A key is either current, until its valid_until_ts but for at most a week after it was fetched, or old: an old
// key verifies events from before its end, and nothing else.
//
// # Invariants
//
// Only fedout writes server_key, and only keys from answers that their own server has signed. A newer answer never shortens the
// life of a key that it still lists. From room version 5 on an event must have been created while its key was valid.
//
// # Failures
//
// A key that cannot be had is ErrNoKey, which may pass; a wrong signature is signing.ErrSignature, which never does. An event
// that names many keys costs no more than a few look-ups.
package keyring
