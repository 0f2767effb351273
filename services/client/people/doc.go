// Package people is the concern of what users see of each other: profiles, presence, the user directory, rooms in common.
package people
