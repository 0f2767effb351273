// Package services is the root of its module.
package services
