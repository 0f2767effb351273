// Package settings is the concern of what users set for themselves: account data and tags, filters, push rules, pushers.
package settings
