package peer

import (
	"encoding/json"
	"net/http"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/merr"
	"hanse/tools/hugeroom"
)

// keyValidity is for how long the keys are published.
const keyValidity = 24 * time.Hour

// keysOf are the signed keys of one of the servers (server-server API, "Publishing Keys").
func (p *Peer) keysOf(server id.Server) ([]byte, error) {
	key := hugeroom.ServerKey(server)
	raw, err := json.Marshal(map[string]any{
		"server_name": server, "valid_until_ts": time.Now().Add(keyValidity).UnixMilli(), "old_verify_keys": map[string]any{},
		"verify_keys": map[string]any{key.ID: map[string]string{"key": signing.Encode(key.Public())}},
	})
	if err != nil {
		return nil, err
	}
	return signing.SignJSON(raw, server, key)
}

func (p *Peer) serverKeys(w http.ResponseWriter, r *http.Request) error {
	server, err := p.ours(r)
	if err != nil {
		return err
	}
	raw, err := p.keysOf(server)
	if err != nil {
		return err
	}
	_, err = w.Write(raw)
	return err
}

// queryKeys vouches for the others ("Querying Keys Through Another Server").
func (p *Peer) queryKeys(w http.ResponseWriter, r *http.Request) error {
	notary, err := p.ours(r)
	if err != nil {
		return err
	}
	var body struct {
		Servers map[id.Server]json.RawMessage `json:"server_keys"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return merr.NotJSON(err.Error())
	}
	keys := []json.RawMessage{}
	for server := range body.Servers {
		if !p.names[server] {
			continue
		}
		raw, err := p.keysOf(server)
		if err != nil {
			return err
		}
		if server != notary {
			if raw, err = signing.SignJSON(raw, notary, hugeroom.ServerKey(notary)); err != nil {
				return err
			}
		}
		keys = append(keys, raw)
	}
	return answer(w, map[string]any{"server_keys": keys})
}

func (p *Peer) version(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, map[string]any{"server": map[string]string{"name": "hugeroom", "version": "1"}})
}
