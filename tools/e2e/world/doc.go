// Package world is what end-to-end tests play in: two Hanse clusters that know of each other, the watch over every
// exchange with them, and the processes in which people's clients run.
package world
