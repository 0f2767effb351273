package userdb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/userdb/db"
)

// UserKeys are the public keys of a user as others may see them.
type UserKeys struct {
	// Devices are the signed identity keys, with the signatures that were uploaded for them.
	Devices map[id.Device]json.RawMessage
	// CrossSigning is by usage. The user-signing key is there for its owner only.
	CrossSigning map[string]json.RawMessage
	// Names are the display names of the devices that have one.
	Names map[id.Device]string
}

// KeysOf returns the keys of those of local users who have any, as viewer ("" for other servers) may see them: others
// get neither the user-signing key nor signatures that a third user made.
func (d *DB) KeysOf(ctx context.Context, users []id.User, viewer id.User) (map[id.User]*UserKeys, error) {
	out := make(map[id.User]*UserKeys, len(users))
	for _, g := range d.groups(users) {
		if err := keysOfShard(ctx, db.New(g.pool), g, viewer, out); err != nil {
			return nil, fmt.Errorf("read keys: %w", err)
		}
	}
	return out, nil
}

// signatures by user, target, signer and key id.
type signatures map[string]map[string]map[string]map[string]string

func keysOfShard(ctx context.Context, q *db.Queries, g *group, viewer id.User, out map[id.User]*UserKeys) error {
	sigs, err := readSignatures(ctx, q, g, viewer)
	if err != nil {
		return err
	}
	devices, err := q.DeviceKeys(ctx, g.parts, g.users)
	if err != nil {
		return err
	}
	for _, r := range devices {
		u := userKeys(out, r.UserID)
		signed, err := addSignatures(r.Keys, sigs[r.UserID][r.DeviceID])
		if err != nil {
			return err
		}
		u.Devices[id.Device(r.DeviceID)] = signed
		if r.DisplayName != nil {
			u.Names[id.Device(r.DeviceID)] = *r.DisplayName
		}
	}
	cross, err := q.CrossSigningKeys(ctx, g.parts, g.users)
	if err != nil {
		return err
	}
	for _, r := range cross {
		if r.Usage == UserSigningKey && id.User(r.UserID) != viewer {
			continue
		}
		u := userKeys(out, r.UserID)
		signed := json.RawMessage(r.Key)
		if public := PublicKey(r.Key); public != "" {
			if signed, err = addSignatures(r.Key, sigs[r.UserID][public]); err != nil {
				return err
			}
		}
		u.CrossSigning[r.Usage] = signed
	}
	return nil
}

func userKeys(m map[id.User]*UserKeys, user string) *UserKeys {
	u := m[id.User(user)]
	if u == nil {
		u = &UserKeys{
			Devices: map[id.Device]json.RawMessage{}, CrossSigning: map[string]json.RawMessage{}, Names: map[id.Device]string{},
		}
		m[id.User(user)] = u
	}
	return u
}

func readSignatures(ctx context.Context, q *db.Queries, g *group, viewer id.User) (signatures, error) {
	rows, err := q.Signatures(ctx, g.parts, g.users)
	if err != nil {
		return nil, err
	}
	all := make(signatures)
	for _, r := range rows {
		if r.Signer != r.UserID && r.Signer != string(viewer) {
			continue
		}
		targets := all[r.UserID]
		if targets == nil {
			targets = make(map[string]map[string]map[string]string)
			all[r.UserID] = targets
		}
		signers := targets[r.Target]
		if signers == nil {
			signers = make(map[string]map[string]string)
			targets[r.Target] = signers
		}
		if signers[r.Signer] == nil {
			signers[r.Signer] = make(map[string]string)
		}
		signers[r.Signer][r.SignerKeyID] = r.Signature
	}
	return all, nil
}

// SignaturesOn returns the signatures that viewer made on keys of users of other servers, by user, target, signer and
// key id. Merge adds them to a key.
func (d *DB) SignaturesOn(ctx context.Context, users []id.User, viewer id.User) (map[id.User]map[string]map[string]map[string]string, error) {
	out := make(map[id.User]map[string]map[string]map[string]string)
	for _, g := range d.groups(users) {
		sigs, err := readSignatures(ctx, db.New(g.pool), g, viewer)
		if err != nil {
			return nil, fmt.Errorf("read signatures: %w", err)
		}
		for user, targets := range sigs {
			out[id.User(user)] = targets
		}
	}
	return out, nil
}

// Merge adds signatures, by signer and key id, to a signed object.
func Merge(key json.RawMessage, more map[string]map[string]string) (json.RawMessage, error) {
	return addSignatures(key, more)
}

// addSignatures merges signatures into a signed object. The other members keep their bytes.
func addSignatures(key json.RawMessage, more map[string]map[string]string) (json.RawMessage, error) {
	if len(more) == 0 {
		return key, nil
	}
	var obj map[string]json.RawMessage
	if err := json.Unmarshal(key, &obj); err != nil {
		return nil, fmt.Errorf("stored key: %w", err)
	}
	sigs := make(map[string]map[string]string)
	if raw := obj["signatures"]; raw != nil {
		if err := json.Unmarshal(raw, &sigs); err != nil {
			return nil, fmt.Errorf("stored key: %w", err)
		}
	}
	for signer, byKey := range more {
		if sigs[signer] == nil {
			sigs[signer] = make(map[string]string)
		}
		for keyID, sig := range byKey {
			sigs[signer][keyID] = sig
		}
	}
	raw, err := json.Marshal(sigs)
	if err != nil {
		return nil, err
	}
	obj["signatures"] = raw
	return json.Marshal(obj)
}

// PublicKey returns the public key of a cross-signing key object, which has exactly one; "" if it has not.
func PublicKey(key json.RawMessage) string {
	var obj struct {
		Keys map[string]string `json:"keys"`
	}
	if json.Unmarshal(key, &obj) != nil || len(obj.Keys) != 1 {
		return ""
	}
	for _, public := range obj.Keys {
		return public
	}
	return ""
}

// RemoteList is what we hold of the devices of a user of another server.
type RemoteList struct {
	StreamID int64
	// Stale lists must be fetched anew before they are used.
	Stale bool
	// Content is the answer of GET /_matrix/federation/v1/user/devices; nil if it was never fetched.
	Content json.RawMessage
	// News counts what we heard of the user's devices.
	News int64
	// Seen says why the user's server tells us of changes. Once it does not hold any more, the list is of no use.
	Seen Sighting
}

// Followed says whether somebody asked for the list before: only then changes are of interest.
func (l *RemoteList) Followed() bool { return l.Stale || l.Content != nil }

// Sighting is a room in which a user of another server is together with one of ours: the numbers of their membership events.
type Sighting struct {
	Part  uint32
	Room  int64 // its numeric id
	NID   int64 // membership of the user
	By    id.User
	ByNID int64 // membership of By
}

func remoteList(r db.RemoteDeviceList) RemoteList {
	return RemoteList{StreamID: r.StreamID, Stale: r.Stale, Content: r.Content, News: r.News,
		Seen: Sighting{Part: uint32(r.SeenPart), Room: r.SeenRoom, NID: r.SeenNid, By: id.User(r.SeenBy), ByNID: r.SeenByNid}}
}

// RemoteLists returns what we hold of the devices of users of other servers; those that we hold nothing of are missing.
func (d *DB) RemoteLists(ctx context.Context, users []id.User) (map[id.User]RemoteList, error) {
	out := make(map[id.User]RemoteList, len(users))
	for _, g := range d.groups(users) {
		rows, err := db.New(g.pool).RemoteDeviceLists(ctx, g.parts, g.users)
		if err != nil {
			return nil, fmt.Errorf("read device lists: %w", err)
		}
		for _, r := range rows {
			out[id.User(r.UserID)] = remoteList(r)
		}
	}
	return out, nil
}

// FollowRemoteList notes, before a user's list is fetched, that changes are of interest from now on. What is fetched then is
// to be stored by UpdateRemoteList, as stale if there were news after those that are returned.
func (d *DB) FollowRemoteList(ctx context.Context, user id.User) (news int64, err error) {
	q, part := d.At(user)
	return q.FollowRemoteDeviceList(ctx, part, string(user))
}

// UpdateRemoteList changes what we hold of a user of another server under a lock. fn gets the zero value if we hold
// nothing; what it returns is stored, unless it returns false.
func (d *DB) UpdateRemoteList(ctx context.Context, user id.User, fn func(old RemoteList) (RemoteList, bool)) error {
	return d.Within(ctx, user, func(tx *Tx) error {
		var old RemoteList
		row, err := tx.RemoteDeviceList(ctx, tx.Part, string(user))
		switch err = notFound(err); {
		case err == nil:
			old = remoteList(row)
		case errors.Is(err, ErrNotFound):
		default:
			return err
		}
		l, store := fn(old)
		if !store {
			return nil
		}
		return tx.PutRemoteDeviceList(ctx, db.PutRemoteDeviceListParams{
			Part: tx.Part, UserID: string(user), StreamID: l.StreamID, Stale: l.Stale, Content: l.Content, FetchedTs: Millis(time.Now()),
			News: l.News, SeenPart: int32(l.Seen.Part), SeenRoom: l.Seen.Room, SeenNid: l.Seen.NID, SeenBy: string(l.Seen.By), SeenByNid: l.Seen.ByNID,
		})
	})
}
