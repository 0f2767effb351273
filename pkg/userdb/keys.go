package userdb

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/userdb/db"
)

// The usages of cross-signing keys.
const (
	MasterKey      = "master"
	SelfSigningKey = "self_signing"
	UserSigningKey = "user_signing"
)

// DeviceChange is the payload of a TaskDevices.
type DeviceChange struct {
	StreamID int64 `json:"stream_id"`
	// Device is empty for a change of cross-signing keys only.
	Device id.Device `json:"device_id"`
}

// DevicesChanged notes in the transaction that a device, or for "" the cross-signing keys, changed. A change of a device
// raises the position of the user's device list. The positions that other servers hear of are dense, and stream_id-1 is the
// prev_id of stream_id: so changes of cross-signing keys have numbers of their own. It tells the user's other devices by a
// notice, and stores the task of telling the rooms. The transaction must be one of Change.
func (tx *Tx) DevicesChanged(ctx context.Context, device id.Device) (Task, error) {
	raise := tx.RaiseDeviceList
	if device == "" {
		raise = tx.RaiseCrossSigning
	}
	stream, err := raise(ctx, tx.Part, string(tx.User))
	if err != nil {
		return Task{}, fmt.Errorf("raise device list: %w", err)
	}
	if err := tx.notice(ctx, tx.User); err != nil {
		return Task{}, err
	}
	payload, err := json.Marshal(DeviceChange{StreamID: stream, Device: device})
	if err != nil {
		return Task{}, err
	}
	return tx.PutTask(ctx, Task{User: tx.User, Kind: TaskDevices, Key: string(device), Payload: payload})
}

// notice tells the devices of the transaction's user to fetch the keys of target anew.
func (tx *Tx) notice(ctx context.Context, target id.User) error {
	err := tx.PutDeviceNotice(ctx, db.PutDeviceNoticeParams{Part: tx.Part, UserID: string(tx.User), Target: string(target), Seq: tx.Seq})
	if err != nil {
		return fmt.Errorf("store notice of keys: %w", err)
	}
	return nil
}

// DeviceNotices returns the users whose keys changed for this user only, at positions in (after, upTo] of the user's
// stream: the user's own keys, and those of others that the user signed. They belong to device_lists.changed of /sync,
// beside what the logs of rooms say.
func (d *DB) DeviceNotices(ctx context.Context, user id.User, after, upTo int64) ([]id.User, error) {
	q, part := d.At(user)
	rows, err := q.DeviceNotices(ctx, db.DeviceNoticesParams{Part: part, UserID: string(user), After: after, UpTo: upTo})
	if err != nil {
		return nil, err
	}
	out := make([]id.User, len(rows))
	for i, r := range rows {
		out[i] = id.User(r)
	}
	return out, nil
}

// DeviceListStream returns the position of a user's device list.
func (d *DB) DeviceListStream(ctx context.Context, user id.User) (int64, error) {
	q, part := d.At(user)
	return q.DeviceListStream(ctx, part, string(user))
}

// OneTimeKey is a one-time or fallback key: algorithm, id and the key as the device uploaded it.
type OneTimeKey struct {
	Algorithm string
	ID        string
	Key       json.RawMessage
}

// ErrKeyExists is returned for a one-time key whose id is taken by another key.
type ErrKeyExists struct{ Algorithm, ID string }

func (e *ErrKeyExists) Error() string {
	return "one time key " + e.Algorithm + ":" + e.ID + " already exists"
}

// KeyUpload is what a device uploads.
type KeyUpload struct {
	User      id.User
	Device    id.Device
	Identity  json.RawMessage // nil: unchanged
	OneTime   []OneTimeKey
	Fallbacks []OneTimeKey
}

// UploadKeys stores keys of a device. If the identity keys changed, the returned task tells the rooms.
func (d *DB) UploadKeys(ctx context.Context, up KeyUpload) (task *Task, err error) {
	_, err = d.Change(ctx, up.User, func(tx *Tx) error {
		task, err = tx.putKeys(ctx, up)
		return err
	})
	return task, err
}

func (tx *Tx) putKeys(ctx context.Context, up KeyUpload) (task *Task, err error) {
	if task, err = tx.putIdentity(ctx, up); err != nil {
		return nil, err
	}
	if err := tx.putOneTimeKeys(ctx, up); err != nil {
		return nil, err
	}
	for _, k := range up.Fallbacks {
		if err := tx.putFallbackKey(ctx, up, k); err != nil {
			return nil, err
		}
	}
	return task, nil
}

func (tx *Tx) putIdentity(ctx context.Context, up KeyUpload) (*Task, error) {
	if up.Identity == nil {
		return nil, nil
	}
	old, err := tx.DeviceKey(ctx, tx.Part, string(up.User), string(up.Device))
	if err = notFound(err); err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	if bytes.Equal(old, up.Identity) {
		return nil, nil
	}
	task, err := tx.DevicesChanged(ctx, up.Device)
	if err != nil {
		return nil, err
	}
	return &task, tx.PutDeviceKey(ctx, db.PutDeviceKeyParams{
		Part: tx.Part, UserID: string(up.User), DeviceID: string(up.Device), Keys: up.Identity, StreamID: task.streamID(),
	})
}

// putFallbackKey stores a fallback key. One that is there already stays used if it is.
func (tx *Tx) putFallbackKey(ctx context.Context, up KeyUpload, k OneTimeKey) error {
	old, err := tx.FallbackKey(ctx, db.FallbackKeyParams{Part: tx.Part, UserID: string(up.User), DeviceID: string(up.Device), Algorithm: k.Algorithm})
	if err = notFound(err); err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	return tx.PutFallbackKey(ctx, db.PutFallbackKeyParams{
		Part: tx.Part, UserID: string(up.User), DeviceID: string(up.Device), Algorithm: k.Algorithm, KeyID: k.ID, Key: k.Key,
		Same: err == nil && old.KeyID == k.ID && sameKey(old.Key, k.Key),
	})
}

// sameKey says whether two uploads are of the same key: who signs it anew makes no other key of it. Both are canonical.
func sameKey(a, b json.RawMessage) bool {
	return bytes.Equal(unsigned(a), unsigned(b))
}

func unsigned(key json.RawMessage) []byte {
	o, err := canonjson.ParseObject(key)
	if err != nil {
		return key // a string
	}
	return o.Without("signatures").Bytes()
}

func (t Task) streamID() int64 {
	var c DeviceChange
	_ = json.Unmarshal(t.Payload, &c) // we wrote it
	return c.StreamID
}

func (tx *Tx) putOneTimeKeys(ctx context.Context, up KeyUpload) error {
	if len(up.OneTime) == 0 {
		return nil
	}
	p := db.AddOneTimeKeysParams{Part: tx.Part, UserID: string(up.User), DeviceID: string(up.Device)}
	for i, k := range up.OneTime {
		p.Algorithms = append(p.Algorithms, k.Algorithm)
		p.KeyIds = append(p.KeyIds, k.ID)
		p.Keys = append(p.Keys, k.Key)
		p.Ns = append(p.Ns, tx.Seq*1000+int64(min(i, 999)))
	}
	have, err := tx.OneTimeKeys(ctx, db.OneTimeKeysParams{
		Part: p.Part, UserID: p.UserID, DeviceID: p.DeviceID, Algorithms: p.Algorithms, KeyIds: p.KeyIds,
	})
	if err != nil {
		return err
	}
	for _, h := range have {
		for _, k := range up.OneTime {
			if k.Algorithm == h.Algorithm && k.ID == h.KeyID && !sameKey(k.Key, h.Key) {
				return &ErrKeyExists{k.Algorithm, k.ID}
			}
		}
	}
	return tx.AddOneTimeKeys(ctx, p)
}

// OneTimeKeyCounts returns how many one-time keys of each algorithm a device has left.
func (d *DB) OneTimeKeyCounts(ctx context.Context, user id.User, device id.Device) (map[string]int, error) {
	q, part := d.At(user)
	rows, err := q.OneTimeKeyCounts(ctx, part, string(user), string(device))
	if err != nil {
		return nil, err
	}
	counts := make(map[string]int, len(rows)+1)
	for _, r := range rows {
		counts[r.Algorithm] = int(r.Count)
	}
	return counts, nil
}

// UnusedFallbackAlgorithms returns the algorithms for which a device has a fallback key that nobody claimed.
func (d *DB) UnusedFallbackAlgorithms(ctx context.Context, user id.User, device id.Device) ([]string, error) {
	q, part := d.At(user)
	return q.UnusedFallbackAlgorithms(ctx, part, string(user), string(device))
}

// ClaimKeys takes a one-time key of the named algorithm from each of a user's devices, or the fallback key where none
// is left. Devices that have neither are missing from the answer.
func (d *DB) ClaimKeys(ctx context.Context, user id.User, algorithms map[id.Device]string) (map[id.Device]OneTimeKey, error) {
	return d.claimKeys(ctx, user, algorithms, true)
}

// ClaimOneTimeKeys takes one-time keys as ClaimKeys does, and no fallback keys.
func (d *DB) ClaimOneTimeKeys(ctx context.Context, user id.User, algorithms map[id.Device]string) (map[id.Device]OneTimeKey, error) {
	return d.claimKeys(ctx, user, algorithms, false)
}

func (d *DB) claimKeys(ctx context.Context, user id.User, algorithms map[id.Device]string, fallback bool) (map[id.Device]OneTimeKey, error) {
	claimed := make(map[id.Device]OneTimeKey, len(algorithms))
	_, err := d.Change(ctx, user, func(tx *Tx) error {
		clear(claimed)
		for device, algorithm := range algorithms {
			k, err := tx.claim(ctx, device, algorithm, fallback)
			if errors.Is(err, ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			claimed[device] = k
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("claim keys: %w", err)
	}
	return claimed, nil
}

func (tx *Tx) claim(ctx context.Context, device id.Device, algorithm string, fallback bool) (OneTimeKey, error) {
	k, err := tx.ClaimOneTimeKey(ctx, db.ClaimOneTimeKeyParams{Part: tx.Part, UserID: string(tx.User), DeviceID: string(device), Algorithm: algorithm})
	if err == nil {
		return OneTimeKey{algorithm, k.KeyID, k.Key}, nil
	}
	if err = notFound(err); !errors.Is(err, ErrNotFound) || !fallback {
		return OneTimeKey{}, err
	}
	f, err := tx.UseFallbackKey(ctx, db.UseFallbackKeyParams{Part: tx.Part, UserID: string(tx.User), DeviceID: string(device), Algorithm: algorithm})
	return OneTimeKey{algorithm, f.KeyID, f.Key}, notFound(err)
}

// Signature is a signature that signer made on a key of User: on a device (Target is its id) or a cross-signing key
// (Target is the public key).
type Signature struct {
	User        id.User
	Target      string
	Signer      id.User
	SignerKeyID string
	Signature   string
}

// PutSignatures stores signatures that signer made on keys of user. On the signer's own keys they change what others
// see: a task for each changed device ("" for cross-signing keys) tells the rooms. On keys of others only the signer
// sees them: a notice tells the signer's devices.
func (d *DB) PutSignatures(ctx context.Context, signer, user id.User, sigs []Signature, changed []id.Device) (tasks []Task, err error) {
	if signer != user {
		fresh := false
		err := d.Within(ctx, user, func(tx *Tx) error {
			fresh, err = tx.putSignatures(ctx, sigs)
			return err
		})
		if err != nil || !fresh {
			return nil, err
		}
		_, err = d.Change(ctx, signer, func(tx *Tx) error { return tx.notice(ctx, user) })
		return nil, err
	}
	_, err = d.Change(ctx, user, func(tx *Tx) error {
		tasks = tasks[:0]
		fresh, err := tx.putSignatures(ctx, sigs)
		if err != nil || !fresh {
			return err
		}
		for _, dev := range changed {
			t, err := tx.DevicesChanged(ctx, dev)
			if err != nil {
				return err
			}
			tasks = append(tasks, t)
		}
		return nil
	})
	return tasks, err
}

// putSignatures reports whether any of the signatures is new.
func (tx *Tx) putSignatures(ctx context.Context, sigs []Signature) (fresh bool, err error) {
	for _, s := range sigs {
		n, err := tx.PutSignature(ctx, db.PutSignatureParams{
			Part: tx.Part, UserID: string(tx.User), Target: s.Target, Signer: string(s.Signer), SignerKeyID: s.SignerKeyID, Signature: s.Signature,
		})
		if err != nil {
			return false, fmt.Errorf("store signature: %w", err)
		}
		fresh = fresh || n > 0
	}
	return fresh, nil
}

// PutCrossSigningKeys stores cross-signing keys by usage. The returned task tells the rooms.
func (d *DB) PutCrossSigningKeys(ctx context.Context, user id.User, keys map[string]json.RawMessage) (task Task, err error) {
	_, err = d.Change(ctx, user, func(tx *Tx) error {
		for usage, key := range keys {
			err := tx.PutCrossSigningKey(ctx, db.PutCrossSigningKeyParams{Part: tx.Part, UserID: string(user), Usage: usage, Key: key})
			if err != nil {
				return err
			}
		}
		task, err = tx.DevicesChanged(ctx, "")
		return err
	})
	return task, err
}
