package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"hanse/pkg/mac"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/servers"
)

// ServerKeys are the signing keys of one of the cluster's names.
type ServerKeys struct {
	Server id.Server
	// Current signs; All are those that ever did, newest first.
	Current string
	All     []servers.VerifyKey
}

// Keys lists the signing keys of all names.
func (a *Admin) Keys(ctx context.Context) ([]ServerKeys, error) {
	r, err := a.registry(ctx)
	if err != nil {
		return nil, err
	}
	var out []ServerKeys
	for _, name := range r.Names() {
		key, err := r.SigningKey(ctx, name)
		if err != nil {
			return nil, err
		}
		all, err := r.VerifyKeys(name)
		if err != nil {
			return nil, err
		}
		out = append(out, ServerKeys{Server: name, Current: key.ID, All: all})
	}
	return out, nil
}

// RotateKey gives one of the cluster's names, the first if it is "", a new signing key, and returns that name and the
// id of the key. Running workers sign with it within half a minute.
func (a *Admin) RotateKey(ctx context.Context, server string) (id.Server, string, error) {
	name, err := a.server(server)
	if err != nil {
		return "", "", err
	}
	r, err := a.registry(ctx)
	if err != nil {
		return "", "", err
	}
	key, err := r.Rotate(ctx, name)
	return name, key, err
}

// ImportKeys takes the keys of a file that the server before this one had (a line each: algorithm, version, seed; as
// Synapse's). The first becomes the one that signs, the others stay known as old ones. It returns their ids.
func (a *Admin) ImportKeys(ctx context.Context, server, file string) (id.Server, []string, error) {
	keys, err := signing.ParseKeyFile(file)
	if err == nil && len(keys) == 0 {
		err = errors.New("signing key file: no key in it")
	}
	if err != nil {
		return "", nil, err
	}
	name, err := a.server(server)
	if err != nil {
		return "", nil, err
	}
	r, err := a.registry(ctx)
	if err != nil {
		return "", nil, err
	}
	var ids []string
	for _, k := range slices.Backward(keys) {
		if err := r.Import(ctx, name, k); err != nil {
			return "", nil, fmt.Errorf("%s: %w", k.ID, err)
		}
		ids = append([]string{k.ID}, ids...)
	}
	return name, ids, nil
}

// RenewSecret replaces the secret of the cluster; see mac.Renew.
func (a *Admin) RenewSecret(ctx context.Context) error { return mac.Renew(ctx, a.shards) }

func (a *Admin) registry(ctx context.Context) (*servers.Registry, error) {
	return servers.Open(ctx, a.shards, a.names, slog.New(slog.DiscardHandler))
}
