// Package view shows events to users: it decides which of a room's events a user may see, and formats them for clients.
//
// It serves every role that answers clients (client-server API, sections "Room history visibility" and "Room event format").
// The decision about an event needs two look-ups in the state at that event: the history visibility and the user's membership.
// Events with the same snapshot share these look-ups; along a line of events each result follows from the one before.
package view
