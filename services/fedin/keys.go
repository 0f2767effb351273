package fedin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"hanse/pkg/httpx"
	"hanse/pkg/keyring"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/merr"
	fedv1 "hanse/proto/federation/v1"
)

const (
	// maxKeyServers and maxKeyIDs bound what one notary query may ask for.
	maxKeyServers, maxKeyIDs = 100, 100
	// notaryTime bounds the wait for other servers.
	notaryTime = 20 * time.Second
)

// ownKeys answers GET /_matrix/key/v2/server (server-server API, "Publishing Keys").
func (f *Fedin) ownKeys(w http.ResponseWriter, r *http.Request) error {
	b, err := f.published(r.Context(), f.servers.ForHost(r.Host))
	if err != nil {
		return err
	}
	return httpx.Raw(w, http.StatusOK, b)
}

// published is the signed object of a local server name.
func (f *Fedin) published(ctx context.Context, server id.Server) ([]byte, error) {
	all, err := f.servers.VerifyKeys(server)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	type key map[string]any
	current, old := map[string]key{}, map[string]key{}
	for _, k := range all {
		text := signing.Encode(k.Public)
		if k.ExpiredTS != 0 && k.ExpiredTS <= now.UnixMilli() {
			old[k.KeyID] = key{"key": text, "expired_ts": k.ExpiredTS}
			continue
		}
		current[k.KeyID] = key{"key": text}
	}
	obj, err := canonjson.Marshal(map[string]any{
		"server_name": server, "valid_until_ts": now.Add(f.cfg.KeyTTL).UnixMilli(), "verify_keys": current, "old_verify_keys": old,
	})
	if err != nil {
		return nil, err
	}
	return f.sign(ctx, obj, server)
}

func (f *Fedin) sign(ctx context.Context, obj []byte, server id.Server) ([]byte, error) {
	k, err := f.servers.SigningKey(ctx, server)
	if err != nil {
		return nil, err
	}
	return signing.SignJSON(obj, server, k)
}

// keyQuery asks a notary for keys of a server: by key id when they must be valid, in milliseconds since 1970. Without
// any id all keys are asked for.
type keyQuery map[string]struct {
	ValidUntil *int64 `json:"minimum_valid_until_ts"`
}

// queryKeys answers GET /_matrix/key/v2/query/{serverName} (server-server API, "Querying Keys Through Another Server").
func (f *Fedin) queryKeys(w http.ResponseWriter, r *http.Request) error {
	server, err := id.ParseServer(httpx.Param(r, "serverName"))
	if err != nil {
		return merr.InvalidParam(err.Error())
	}
	until := time.Now().UnixMilli()
	if text := r.URL.Query().Get("minimum_valid_until_ts"); text != "" {
		if until, err = strconv.ParseInt(text, 10, 64); err != nil {
			return merr.InvalidParam("minimum_valid_until_ts is not a number")
		}
	}
	wanted := map[string]int64{}
	if keyID := httpx.Param(r, "keyId"); keyID != "" {
		wanted[keyID] = until
	}
	return f.answerKeys(w, r, map[id.Server]wantedKeys{server: {wanted, until}})
}

// wantedKeys is what is asked for of one server.
type wantedKeys struct {
	byID  map[string]int64
	until int64 // if none is named
}

// queryManyKeys answers POST /_matrix/key/v2/query.
func (f *Fedin) queryManyKeys(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Servers *map[string]keyQuery `json:"server_keys"`
	}
	if err := httpx.Decode(r, &body); err != nil {
		return err
	}
	if body.Servers == nil {
		return merr.MissingParam("server_keys")
	}
	if len(*body.Servers) > maxKeyServers {
		return merr.InvalidParam("Too many servers")
	}
	now := time.Now().UnixMilli()
	wanted := make(map[id.Server]wantedKeys, len(*body.Servers))
	for text, q := range *body.Servers {
		server, err := id.ParseServer(text)
		if err != nil {
			return merr.InvalidParam(err.Error())
		}
		if len(q) > maxKeyIDs {
			return merr.InvalidParam("Too many keys")
		}
		k := wantedKeys{byID: make(map[string]int64, len(q)), until: now}
		for keyID, c := range q {
			k.byID[keyID] = now
			if c.ValidUntil != nil {
				k.byID[keyID] = *c.ValidUntil
			}
		}
		wanted[server] = k
	}
	return f.answerKeys(w, r, wanted)
}

func (f *Fedin) answerKeys(w http.ResponseWriter, r *http.Request, wanted map[id.Server]wantedKeys) error {
	ctx, cancel := context.WithTimeout(r.Context(), notaryTime)
	defer cancel()
	notary := f.servers.ForHost(r.Host)
	answers := []json.RawMessage{}
	for server, k := range wanted {
		found, err := f.notarised(ctx, r, notary, server, k)
		if err != nil {
			return err
		}
		answers = append(answers, found...)
	}
	return httpx.OK(w, map[string]any{"server_keys": answers})
}

// notarised returns key objects of a server with our signature added.
func (f *Fedin) notarised(ctx context.Context, r *http.Request, notary, server id.Server, k wantedKeys) ([]json.RawMessage, error) {
	if f.servers.IsLocal(server) {
		b, err := f.published(ctx, server)
		if err == nil && server != notary {
			b, err = f.sign(ctx, b, notary)
		}
		return []json.RawMessage{b}, err
	}
	stored, err := f.keyStore.Responses(ctx, server)
	if err != nil {
		return nil, err
	}
	if !k.satisfied(stored) {
		if err := f.fetchKeys(ctx, r, server, k); err != nil {
			return nil, err
		}
		if stored, err = f.keyStore.Responses(ctx, server); err != nil {
			return nil, err
		}
	}
	var out []json.RawMessage
	for i, resp := range stored {
		if i > 0 && !k.names(resp.KeyIDs) {
			continue // the newest answer, and older ones that have a key which is gone from it
		}
		obj, err := canonjson.CanonicalLoose(resp.JSON)
		if err != nil {
			return nil, fmt.Errorf("stored keys of %s: %w", server, err)
		}
		if obj, err = f.sign(ctx, obj, notary); err != nil {
			return nil, err
		}
		out = append(out, obj)
	}
	return out, nil
}

func (k wantedKeys) names(keyIDs []string) bool {
	for _, keyID := range keyIDs {
		if _, ok := k.byID[keyID]; ok {
			return true
		}
	}
	return false
}

// satisfied says whether what is stored answers the query.
func (k wantedKeys) satisfied(stored []keyring.Response) bool {
	if len(k.byID) == 0 {
		return len(stored) > 0 && stored[0].ValidUntil >= k.until
	}
	for keyID, until := range k.byID {
		ok := false
		for _, resp := range stored {
			for _, have := range resp.KeyIDs {
				ok = ok || have == keyID && resp.ValidUntil >= until
			}
		}
		if !ok {
			return false
		}
	}
	return true
}

// fetchKeys makes fedout ask for keys. Strangers can make us ask: no server is asked twice a minute, and few wait at a time.
// That the keys cannot be had is not an error.
func (f *Fedin) fetchKeys(ctx context.Context, r *http.Request, server id.Server, k wantedKeys) error {
	name := keyName{server, ""}
	if _, ok := f.refused.Get(name); ok || f.fedout == nil {
		return nil
	}
	ctx, leave, err := f.waitForKey(ctx, r, server)
	if err != nil {
		return err
	}
	f.refused.Add(name, struct{}{})
	req := new(fedv1.KeysRequest)
	for keyID, until := range k.byID {
		if signing.CheckKeyID(keyID) == nil {
			req.Queries = append(req.Queries, &fedv1.KeyQuery{Server: string(server), KeyId: keyID, MinimumValidUntilMs: until})
		}
	}
	if len(req.Queries) == 0 {
		req.Queries = append(req.Queries, &fedv1.KeyQuery{Server: string(server), MinimumValidUntilMs: k.until})
	}
	if _, err := f.fedout.Keys(ctx, req); err != nil {
		f.log.DebugContext(ctx, "keys for a notary query", "server", server, "err", err)
	}
	return leave()
}

// version answers GET /_matrix/federation/v1/version.
func (f *Fedin) version(w http.ResponseWriter, _ *http.Request) error {
	return httpx.OK(w, map[string]any{"server": map[string]string{"name": "Hanse", "version": buildVersion()}})
}
