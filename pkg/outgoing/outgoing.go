// Package outgoing says which entries of the log other servers are told of.
package outgoing

import (
	"hanse/pkg/matrix/id"
	logv1 "hanse/proto/log/v1"
)

// Leaves reports whether an entry of the log concerns other servers in its room. isLocal says which servers are of this
// cluster.
func Leaves(e *logv1.Entry, isLocal func(id.Server) bool) bool {
	switch b := e.Body.(type) {
	case *logv1.Entry_Event:
		return b.Event.Local || BringsLocalUser(b.Event, isLocal)
	case *logv1.Entry_Receipt:
		return b.Receipt.Local && b.Receipt.Type == "m.read" // private receipts stay here
	case *logv1.Entry_DeviceChange:
		return b.DeviceChange.Local
	case *logv1.Entry_Filled:
		return true
	}
	return false
}

// BringsLocalUser says whether an event brings a local user into a room. If it came through another server, that server has
// sent it to the others; but these must hear of the user's devices.
func BringsLocalUser(e *logv1.Event, isLocal func(id.Server) bool) bool {
	return Joins(e) > 0 && e.StateKey != nil && isLocal(id.User(*e.StateKey).Server())
}

// Joins is by how much a membership event changes the number of joined members of its target's server.
func Joins(e *logv1.Event) int {
	if e.Overruled || e.Membership == "" {
		return 0
	}
	n := 0
	if e.Membership == "join" {
		n++
	}
	if e.PrevMembership == "join" {
		n--
	}
	return n
}
