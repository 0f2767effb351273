package room

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"time"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/signing"
	federationv1 "hanse/proto/federation/v1"
)

// keyTrust bounds for how long a key counts as valid without having been seen again (server-server API, "Publishing
// Keys": valid_until_ts).
const keyTrust = 7 * 24 * time.Hour

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
		pdu, err := event.Parse(b, rules)
		if err != nil || pdu.RoomID != room || storable(pdu) != nil || namesItself(pdu) {
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
	bad, err := s.verify(ctx, pdus)
	if err != nil {
		return nil, err
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

type keyName struct {
	server id.Server
	key    string
}

// verify checks the signatures that events must have (server-server API, "Validating hashes and signatures on received
// events"). The errors are those of the single events.
func (s *Service) verify(ctx context.Context, pdus []*event.PDU) ([]error, error) {
	wanted := make(map[keyName]int64)
	for _, pdu := range pdus {
		for _, server := range pdu.SigningServers() {
			if s.servers.IsLocal(server) {
				continue
			}
			for k, ts := range wantedKeys(pdu, server) {
				wanted[k] = max(wanted[k], ts)
			}
		}
	}
	keys, err := s.keys(ctx, wanted)
	if err != nil {
		return nil, err
	}
	errs := make([]error, len(pdus))
	return errs, s.turns.each(ctx, len(pdus), func(i int) { errs[i] = s.verifyOne(pdus[i], keys) })
}

// wantedKeys names the keys with which a server signed an event, and when they had to be valid.
func wantedKeys(pdu *event.PDU, server id.Server) map[keyName]int64 {
	wanted := make(map[keyName]int64, 1)
	for _, key := range signatureKeys(pdu, server) {
		wanted[keyName{server, key}] = pdu.OriginServerTS
	}
	return wanted
}

// keysPerSigner bounds the signatures of one server on one event that are looked at.
const keysPerSigner = 5

func signatureKeys(pdu *event.PDU, server id.Server) []string {
	names := signing.SignatureKeyIDs(pdu.JSON, server)
	return names[:min(len(names), keysPerSigner)]
}

func (s *Service) keys(ctx context.Context, wanted map[keyName]int64) (map[keyName]*federationv1.ServerKey, error) {
	keys := make(map[keyName]*federationv1.ServerKey, len(wanted))
	if len(wanted) == 0 {
		return keys, nil
	}
	if s.fedout == nil {
		return keys, nil
	}
	req := new(federationv1.KeysRequest)
	for k, ts := range wanted {
		req.Queries = append(req.Queries, &federationv1.KeyQuery{Server: string(k.server), KeyId: k.key, MinimumValidUntilMs: ts})
	}
	resp, err := s.fedout.Keys(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("verify keys: %w", err)
	}
	for _, k := range resp.Keys {
		keys[keyName{id.Server(k.Server), k.KeyId}] = k
	}
	return keys, nil
}

func (s *Service) verifyOne(pdu *event.PDU, keys map[keyName]*federationv1.ServerKey) error {
	for _, server := range pdu.SigningServers() {
		if err := s.verifyBy(pdu, server, keys); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) verifyBy(pdu *event.PDU, server id.Server, keys map[keyName]*federationv1.ServerKey) error {
	names := signatureKeys(pdu, server)
	if s.servers.IsLocal(server) {
		return s.verifyOwn(pdu, server, names)
	}
	err := fmt.Errorf("no signature of %s with a known key", server)
	for _, name := range names {
		k := keys[keyName{server, name}]
		if k == nil || len(k.PublicKey) != ed25519.PublicKeySize {
			continue
		}
		until := min(k.ValidUntilMs, time.Now().Add(keyTrust).UnixMilli())
		if pdu.Rules.EnforceKeyValidity && pdu.OriginServerTS > until {
			err = fmt.Errorf("key %s of %s was not valid at %d", name, server, pdu.OriginServerTS)
			continue
		}
		if err = pdu.Verify(server, name, k.PublicKey); err == nil {
			return nil
		}
	}
	return err
}

// verifyOwn verifies what one of our names signed, with a present key or a former one.
func (s *Service) verifyOwn(pdu *event.PDU, server id.Server, names []string) error {
	own, err := s.servers.VerifyKeys(server)
	if err != nil {
		return err
	}
	err = fmt.Errorf("no signature of %s with a key of ours", server)
	for _, key := range own {
		if !slices.Contains(names, key.KeyID) {
			continue
		}
		if err = pdu.Verify(server, key.KeyID, key.Public); err == nil {
			return nil
		}
	}
	return err
}
