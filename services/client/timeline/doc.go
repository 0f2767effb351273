// Package timeline is the concern of reading rooms: their messages, their state and members, what relates to events, and search.
//
// All of it goes through access: a view of the room for the user who asks, and for each event whether the user may see it.
package timeline
