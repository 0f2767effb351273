// Package access is what concerns share that act on rooms: what a user may read of a room, who is in it and has which power, and the
// call that changes it.
package access
