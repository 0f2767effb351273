package room

import (
	"context"
	"errors"
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

// errOtherEndpoint says that a device has used a transaction id for a request to another endpoint of the same room.
var errOtherEndpoint = errors.New("transaction id of another endpoint")

// endpoint is what an intent has of the path of its request beside the room and the transaction id (client-server API,
// "Transaction identifiers": their scope is the device and the endpoint).
func (in *intent) endpoint() string { return in.typ + causeSep + string(in.redacts) }

// elsewhere is the cause of a request whose transaction id was used for another endpoint of the room before. The first
// one has the plain form, which is that of all requests written by releases that knew no other.
func (c cause) elsewhere(endpoint string) cause {
	c.base += causeSep + causeSep + endpoint
	return c
}

// madeBy says whether a stored event was made at the endpoint of this intent.
func (s *Service) madeBy(ctx context.Context, r *room, in *intent, nid int64) (bool, error) {
	e, err := s.event(ctx, r.p, nid)
	if err != nil {
		return false, err
	}
	return e.Type == in.typ && (in.typ != typeRedaction || e.Redacts == in.redacts), nil
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
