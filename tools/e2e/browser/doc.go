// Package browser lets two people use a real web browser: Debian's Chromium, with a small page on matrix-js-sdk and its crypto in
// Rust (../js/page.mjs). The tests do what people do (encrypted rooms, replies, reactions, edits, threads, polls, redactions, search,
// verification by emoji, pictures), and look at what the page shows.
package browser
