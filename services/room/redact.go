package room

import (
	"context"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
)

// applyRedaction redacts the event that a delivered redaction names, if the sender may (room version 3, "Handling
// redactions"): with the power to redact, or if the target was sent from the same server. For our own users the same
// sender is asked for (as Synapse does).
func (w *writer) applyRedaction(ctx context.Context, e *newEvent, local bool) error {
	if e.pdu.Type != typeRedaction || e.pdu.StateKey != nil || e.pdu.Redacts == "" {
		return nil
	}
	powerful, err := w.mayRedact(ctx, e.pdu.Sender)
	if err != nil {
		return err
	}
	target, err := w.find(ctx, e.pdu.Redacts)
	if err != nil {
		return err
	}
	if target == nil {
		if local && !powerful {
			return merr.NotFound("Could not find event " + string(e.pdu.Redacts))
		}
		w.c.awaited = append(w.c.awaited, awaited{target: e.pdu.Redacts, by: e.nid})
		return nil
	}
	if local {
		if target.Type == typeCreate {
			return merr.Forbidden("Redacting create events is not permitted")
		}
		if target.Type == typeServerACL {
			return merr.Forbidden("Redacting server ACL events is not permitted")
		}
		if !powerful && target.Sender != e.pdu.Sender {
			return merr.Forbidden("You don't have permission to redact events")
		}
	}
	if redacts(e.pdu, target.PDU, powerful) && target.RedactedBy == 0 {
		w.c.redactions = append(w.c.redactions, redaction{target: target.NID, by: e.nid})
	}
	return nil
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
