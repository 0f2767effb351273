// Package sharing finds out which users are in rooms together. That decides whose keys and presence a user hears of, and whether a
// stored device list of another server's user still holds.
package sharing
