// Package filter is the filters of clients (client-server API, "Filtering"): their form, and what the filter of a room's events lets
// through.
package filter
