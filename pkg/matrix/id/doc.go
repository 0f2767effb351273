// Package id holds Matrix identifiers (appendices, section "Common Identifier Format"). They are types: parsed once at
// the edge, and never a bare string behind it.
package id
