package room

import (
	"strconv"
	"strings"

	"hanse/pkg/merr"
	roomv1 "hanse/proto/room/v1"
)

// cause names the request that an event stems from.
type cause struct {
	base              string
	user, device, txn string
}

// The parts of a stored cause are separated by a control character that no identifier of ours contains; one in a
// transaction id can at worst make two requests of one user the same.
const causeSep = "\x1f"

// causeOf makes the stored form, which readers know (view.Cause). A transaction is the device's own (client-server API, "Transaction identifiers");
// other requests carry a random key of the caller's.
func causeOf(c *roomv1.Cause) (cause, error) {
	if c == nil {
		return cause{}, nil
	}
	for _, s := range []string{c.UserId, c.DeviceId, c.TxnId, c.Key} {
		if len(s) > 255 || strings.ContainsRune(s, 0) {
			return cause{}, merr.InvalidParam("The transaction id is too long or malformed")
		}
	}
	if c.TxnId != "" {
		return cause{user: c.UserId, base: c.UserId + causeSep + c.DeviceId + causeSep + c.TxnId, device: c.DeviceId, txn: c.TxnId}, nil
	}
	if c.Key == "" {
		return cause{}, nil
	}
	return cause{user: c.UserId, base: causeSep + c.UserId + causeSep + c.Key}, nil
}

// at is the cause of the nth event that the request made.
func (c cause) at(n int) string {
	if c.base == "" || n == 0 {
		return c.base
	}
	return c.base + causeSep + strconv.Itoa(n)
}
