// Package proto is the root of its module.
package proto
