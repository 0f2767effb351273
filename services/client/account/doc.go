// Package account is the concern of accounts: registering, logging in and out, refreshing tokens, devices, passwords, closing an
// account, OpenID tokens.
package account
