// Package tools is the root of its module.
package tools
