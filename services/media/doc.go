// Package media is the role that has the media: uploads, downloads, and what is made of them.
//
// # Model
//
// Bytes go from a request to the object store and back as they come; no worker keeps any of them (pkg/mediastore). Any
// worker serves anything. A media of another server is fetched by the worker that its partition names, for all workers that
// are asked for it, and stored; those who wait read along.
//
// # Invariants
//
//   - Nothing is served that its row does not say is ready, at the time of the request: no worker remembers rows.
//   - What a request holds does not grow with the size of a file.
//   - A type that a browser might run is an attachment (client-server API, "Serving inline content").
//
// # Failures
//
// A worker that ends in the middle of a download breaks the connection; the client reads on from there by a range, at any
// other worker. What it leaves of an upload is removed by mediastore's sweep.
package media
