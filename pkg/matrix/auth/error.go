package auth

import (
	"fmt"

	"hanse/pkg/matrix/roomversion"
)

// Error is a refusal by the authorisation rules.
type Error struct {
	// Version is the room version whose page numbers the rule.
	Version string
	// Rule is the number on that page, such as "4.3.5.2".
	Rule string
	// Reason says what was found, for logs and for the sender.
	Reason string
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("not authorised by rule %s of room version %s: %s", e.Rule, e.Version, e.Reason)
}

// reject builds a refusal. Only refusals pay for formatting.
func reject(r *roomversion.Rules, rule, format string, args ...any) *Error {
	reason := format
	if len(args) > 0 {
		reason = fmt.Sprintf(format, args...)
	}
	return &Error{Version: r.Version, Rule: rule, Reason: reason}
}
