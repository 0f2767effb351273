// Package directory is the concern of finding rooms: aliases, published rooms, summaries, and the rooms of spaces.
package directory
