// Package view shows events to users: which of a room's events a user may see, and what they look like to a client.
//
// It serves every role that answers clients (client-server API, sections "Room history visibility" and "Room event
// format"). What is decided per event are two state lookups at the event, history visibility and the user's
// membership; events that share a snapshot share them, and along a line of events they follow from one another.
package view
