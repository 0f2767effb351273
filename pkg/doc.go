// Package pkg is the root of Hanse's libraries. They have no globals and never import services.
package pkg
