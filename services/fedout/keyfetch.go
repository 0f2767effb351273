package fedout

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"hanse/pkg/fedclient"
	"hanse/pkg/keyring"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
)

const (
	keyTimeout  = 10 * time.Second
	keyBytes    = 64 << 10
	notaryBytes = 1 << 20
	keysPerSide = 64 // verify_keys, and old_verify_keys, that are kept of one server
)

// keyAnswer is a verified answer of GET /_matrix/key/v2/server.
type keyAnswer struct {
	keys map[string]keyring.Key
	json []byte
}

// verifyKey is a key in an answer; Expired of old ones only.
type verifyKey struct {
	Key     string `json:"key"`
	Expired int64  `json:"expired_ts"`
}

// parseKeys verifies an answer and takes its keys out (server-server API, "Publishing Keys"). It must be signed by
// one of the keys that it names.
func parseKeys(server id.Server, raw []byte, now time.Time) (*keyAnswer, error) {
	canonical, err := canonjson.CanonicalLoose(raw)
	if err != nil {
		return nil, err
	}
	var a struct {
		Server     id.Server            `json:"server_name"`
		ValidUntil int64                `json:"valid_until_ts"`
		Keys       map[string]verifyKey `json:"verify_keys"`
		Old        map[string]verifyKey `json:"old_verify_keys"`
	}
	if err := canonjson.Decode(canonical, &a); err != nil {
		return nil, err
	}
	if a.Server != server {
		return nil, fmt.Errorf("answer is of %q", a.Server)
	}
	if len(a.Keys) > keysPerSide || len(a.Old) > keysPerSide {
		return nil, errors.New("too many keys")
	}
	out := &keyAnswer{keys: make(map[string]keyring.Key, len(a.Keys)+len(a.Old)), json: canonical}
	for keyID, k := range a.Old {
		if public, ok := publicKey(keyID, k.Key); ok && k.Expired > 0 {
			out.keys[keyID] = keyring.Key{Public: public, ValidUntil: k.Expired, Expired: true}
		}
	}
	signed, until := false, min(a.ValidUntil, now.Add(keyring.MaxTrust).UnixMilli())
	for keyID, k := range a.Keys {
		public, ok := publicKey(keyID, k.Key)
		if !ok {
			continue
		}
		out.keys[keyID] = keyring.Key{Public: public, ValidUntil: until}
		signed = signed || signing.VerifyJSON(canonical, server, keyID, public) == nil
	}
	if !signed {
		return nil, fmt.Errorf("answer is not signed by a key of it: %w", signing.ErrSignature)
	}
	return out, nil
}

func publicKey(keyID, text string) (ed25519.PublicKey, bool) {
	if signing.CheckKeyID(keyID) != nil {
		return nil, false // another algorithm
	}
	b, err := signing.Decode(text)
	return b, err == nil && len(b) == ed25519.PublicKeySize
}

// fetchKeys asks a server for its keys and stores them.
func (s *Service) fetchKeys(ctx context.Context, server id.Server) error {
	ctx, cancel := context.WithTimeout(ctx, keyTimeout)
	defer cancel()
	raw, err := s.getJSON(ctx, fedclient.Request{Server: server, Method: http.MethodGet, URI: "/_matrix/key/v2/server", MaxBytes: keyBytes})
	if err != nil {
		return err
	}
	now := time.Now()
	a, err := parseKeys(server, raw, now)
	if err != nil {
		return fmt.Errorf("keys of %s: %w", server, err)
	}
	return s.putKeys(ctx, server, a, now)
}

// putKeys stores the keys of an answer, and makes all workers forget what they remember of the server.
func (s *Service) putKeys(ctx context.Context, server id.Server, a *keyAnswer, now time.Time) error {
	if err := s.keys.Put(ctx, server, a.keys, a.json, now); err != nil {
		return err
	}
	if err := s.bus.PublishKeys(string(server)); err != nil {
		s.log.Debug("keys", "server", server, "err", err)
	}
	return nil
}

func (s *Service) getJSON(ctx context.Context, q fedclient.Request) ([]byte, error) {
	resp, err := s.client.Do(ctx, q)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read answer of %s: %w", q.Server, err)
	}
	if resp.Status != http.StatusOK {
		return nil, fmt.Errorf("%s answered %d", q.Server, resp.Status)
	}
	return raw, nil
}

// askNotary asks a trusted key server for keys of another one and stores them (server-server API, "Querying Keys
// Through Another Server"). The answer must be signed by the notary and by the server itself.
func (s *Service) askNotary(ctx context.Context, notary, server id.Server, wanted map[string]int64) error {
	ctx, cancel := context.WithTimeout(ctx, keyTimeout)
	defer cancel()
	type criteria struct {
		At int64 `json:"minimum_valid_until_ts"`
	}
	of := make(map[string]criteria, len(wanted))
	for keyID, at := range wanted {
		of[keyID] = criteria{at}
	}
	body, err := canonjson.Marshal(map[string]any{"server_keys": map[id.Server]any{server: of}})
	if err != nil {
		return err
	}
	raw, err := s.getJSON(ctx, fedclient.Request{Server: notary, Method: http.MethodPost, URI: "/_matrix/key/v2/query", Body: body, MaxBytes: notaryBytes})
	if err != nil {
		return err
	}
	var answer struct {
		Keys []json.RawMessage `json:"server_keys"`
	}
	if err := canonjson.Decode(raw, &answer); err != nil {
		return fmt.Errorf("answer of notary %s: %w", notary, err)
	}
	var errs []error
	for _, one := range answer.Keys {
		if err := s.takeNotarised(ctx, notary, server, one); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (s *Service) takeNotarised(ctx context.Context, notary, server id.Server, raw []byte) error {
	now := time.Now()
	a, err := parseKeys(server, raw, now)
	if err != nil {
		return fmt.Errorf("keys of %s by notary %s: %w", server, notary, err)
	}
	if err := s.ring.VerifyJSON(ctx, notary, a.json, now.UnixMilli()); err != nil {
		return fmt.Errorf("keys of %s by notary %s: %w", server, notary, err)
	}
	return s.putKeys(ctx, server, a, now)
}
