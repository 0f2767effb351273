// Package uia is user-interactive authentication (client-server API, "User-Interactive Authentication API"), and how passwords are
// checked and whom a login names, which logging in needs, too.
//
// Begin reads a request and finds its session, Finish (or Confirm, for who is logged in) takes the stage that it shows. Sessions lie in
// Redis: without it, authentication with one stage works still.
package uia
