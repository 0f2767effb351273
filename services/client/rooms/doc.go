// Package rooms is the concern of what clients do in rooms: they make and upgrade them, join, leave, invite and moderate, send events,
// mark what they have read, type, and report.
package rooms
