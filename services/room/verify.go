package room

import (
	"context"
	"fmt"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
)

// parseAll parses and verifies events from another server. Those that are malformed, of another room or badly signed
// are left out: nothing can be known of them.
func (s *Service) parseAll(ctx context.Context, raw rawPDUs, rules *roomversion.Rules, room id.Room) ([]*event.PDU, error) {
	return s.genuine(ctx, s.parse(raw, rules, room))
}

// parse is the first half of parseAll.
func (s *Service) parse(raw rawPDUs, rules *roomversion.Rules, room id.Room) []*event.PDU {
	pdus := make([]*event.PDU, 0, len(raw))
	seen := make(map[id.Event]bool, len(raw))
	for _, b := range raw {
		pdu, err := event.ParseIn(b, rules, room)
		if err != nil {
			s.metrics.pdus.WithLabelValues("malformed").Inc()
			continue
		}
		if !seen[pdu.ID] {
			seen[pdu.ID] = true
			pdus = append(pdus, pdu)
		}
	}
	return pdus
}

// genuine returns those of the events that are signed as they must be.
func (s *Service) genuine(ctx context.Context, pdus []*event.PDU) ([]*event.PDU, error) {
	bad, err := s.keys.VerifyEvents(ctx, pdus)
	if err != nil {
		return nil, fmt.Errorf("verify events: %w", err)
	}
	good := pdus[:0]
	for i, pdu := range pdus {
		if bad[i] != nil {
			s.metrics.pdus.WithLabelValues("bad_signature").Inc()
			s.log.Debug("event with a bad signature", "event", pdu.ID, "err", bad[i])
			continue
		}
		good = append(good, pdu)
	}
	return good, nil
}
