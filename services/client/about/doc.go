// Package about is the concern of what a server says of itself: versions, capabilities, TURN servers, third-party networks (none).
package about
