package room

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomdb/eventsql"
)

// applyRedaction redacts the event that an accepted redaction names, if the sender may (room version 3, "Handling
// redactions"): with the power to redact, or if the target was sent from the same server. For our own users the same
// sender is asked for (as Synapse does). shown says whether clients are to see the redaction: not until the target is here and
// accepted, and never one that has no right to it. Other servers get it all the same.
func (w *writer) applyRedaction(ctx context.Context, e *newEvent, local bool) (shown bool, err error) {
	if e.pdu.Type != typeRedaction || e.pdu.StateKey != nil {
		return true, nil
	}
	// In versions 1 and 2 the auth rules have decided; what local users send waits for nothing.
	decided := local || e.pdu.Rules.RedactionAuthRule
	if e.pdu.Redacts == "" {
		return decided, nil
	}
	powerful, err := w.mayRedact(ctx, e.pdu.Sender)
	if err != nil {
		return false, err
	}
	target, err := w.find(ctx, e.pdu.Redacts)
	if err != nil {
		return false, err
	}
	if target == nil {
		if local {
			if err := w.mayRedactUnknown(ctx, e.pdu, powerful); err != nil {
				return false, err
			}
		}
		w.c.awaited = append(w.c.awaited, awaited{target: e.pdu.Redacts, by: e.nid})
		return decided, nil
	}
	if local {
		if target.Type == typeCreate {
			return false, merr.Forbidden("Redacting create events is not permitted")
		}
		if target.Type == typeServerACL {
			return false, merr.Forbidden("Redacting server ACL events is not permitted")
		}
		if !powerful && target.Sender != e.pdu.Sender {
			return false, merr.Forbidden("You don't have permission to redact events")
		}
	}
	applies := redacts(e.pdu, target.PDU, powerful)
	if applies && target.RedactedBy == 0 {
		w.c.redactions = append(w.c.redactions, redaction{target: target.NID, by: e.nid, related: event.RelationType(target.Content) != ""})
		if target.Is(typeGuestAccess, "") && w.h.joinedLocal > 0 {
			if err := w.removeGuests(ctx); err != nil {
				return false, err
			}
		}
	}
	shown = decided || applies && w.present(target).Flags == 0
	if applies && !shown { // an outlier may get its place
		w.c.awaited = append(w.c.awaited, awaited{target: e.pdu.Redacts, by: e.nid})
	}
	return shown, nil
}

// mayRedactUnknown judges a redaction by a local user of an event that the room does not have: one of another room is
// refused (as Synapse does), one that may come still needs the power to redact.
func (w *writer) mayRedactUnknown(ctx context.Context, by *event.PDU, powerful bool) error {
	if !powerful {
		return merr.NotFound("Could not find event " + string(by.Redacts))
	}
	other, err := w.s.db.FindEvent(ctx, by.Redacts)
	if errors.Is(err, roomdb.ErrNotFound) {
		return nil
	}
	if err == nil && other.RoomID != by.RoomID {
		err = merr.New(http.StatusBadRequest, merr.CodeUnknown, "Cannot redact event from a different room")
	}
	return err
}

// withheld finds which redactions of an event that has come now were withheld from clients: of earlier changes, all of which
// are written, or of the draft.
func (w *writer) withheld(ctx context.Context, by []*roomdb.Event) ([]*newEvent, error) {
	if len(by) == 0 {
		return nil, nil
	}
	var out []*newEvent
	stored := make(map[int64]*roomdb.Event, len(by))
	for _, ev := range by {
		stored[ev.NID] = ev
	}
	for _, e := range w.c.events {
		if stored[e.nid] != nil {
			delete(stored, e.nid)
			if e.withheld {
				out = append(out, e)
			}
		}
	}
	rows, err := w.s.shards.For(w.r.p.part).Query(ctx, eventsql.Unplaced, int32(w.r.p.part), slices.Collect(maps.Keys(stored)))
	if err != nil {
		return nil, fmt.Errorf("read redactions: %w", err)
	}
	nids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("read redactions: %w", err)
	}
	for _, nid := range nids {
		if ev := stored[nid]; ev.RedactedBy == 0 { // one that was redacted itself says nothing any more
			out = append(out, &newEvent{pdu: ev.PDU, nid: nid, sid: ev.SID, auth: ev.Auth, prev: ev.Prev, rowExists: true, withheld: true})
		}
	}
	return out, nil
}

// release makes the redactions that an event was awaited by visible with it, and returns them: they are to get places.
func (w *writer) release(e *newEvent) []*newEvent {
	for _, by := range e.releases {
		if by.withheld = false; !slices.Contains(w.c.events, by) {
			w.add(by)
		}
	}
	return e.releases
}

// redacts applies the rule to a redaction and its target. In versions 1 and 2 the auth rules have decided already.
func redacts(by, target *event.PDU, powerful bool) bool {
	return by.Rules.RedactionAuthRule || powerful || by.Sender.Server() == target.Sender.Server()
}

func (w *writer) mayRedact(ctx context.Context, sender id.User) (bool, error) {
	found, err := w.s.authEvents(ctx, w.r.p, w.h.state, []event.Tuple{{Type: typePowerLevels}})
	if err != nil {
		return false, err
	}
	required, malformed := auth.PowerLevelsOf(found.lookup).Redact()
	return malformed == nil && auth.PowerOf(sender, found.lookup) >= required, nil // malformed levels grant nothing
}

// find returns an event of the room, those of the draft included, or nil.
func (w *writer) find(ctx context.Context, eventID id.Event) (*roomdb.Event, error) {
	for _, e := range w.c.events {
		if e.pdu.ID == eventID {
			return w.s.event(ctx, w.r.p, e.nid)
		}
	}
	found, err := w.stored(ctx, []id.Event{eventID})
	return found[eventID], err
}
