// Package mediastore keeps media: what is known of them in PostgreSQL, their bytes in an object store.
//
// # Model
//
// A Media is named by an ID, as in mxc://origin/id, and has a row in the partition of that ID. Its bytes are an object in the
// store, under a random key. Media with the same bytes share an object: a row in the partition of the SHA-256 says which
// object has these bytes (media_blob), and one row for each media says that it uses it (media_blob_ref). An upload always
// stores its bytes first and finds out afterwards that they were there already, so that its answer and its time tell nobody
// what others have.
//
// A media goes through states: reserved (it has an ID and waits for its upload), arriving, stored (all bytes are there),
// ready, and gone. Only ready ones are seen.
//
// # Invariants
//
//   - An object has a row that names it before it is written, and until it is deleted: the row of its media, of its blob, of
//     its thumbnail, or of media_garbage. A key is never used twice.
//   - Numbers and bytes of each user and server (media_usage) change in the transaction that makes a media ready or gone.
//   - What was deleted is not seen any more when the first transaction of Delete has committed. Nothing is cached.
//
// # Failures
//
// A worker that dies on the way leaves a row in a state that is not ready, or a row of media_garbage. Sweep finishes what
// has stood for too long: it undoes uploads and repeats deletions. Audit compares the store with the rows, for what the
// store itself has lost or kept.
package mediastore
