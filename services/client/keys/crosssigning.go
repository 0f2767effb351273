package keys

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/merr"
	"hanse/pkg/userdb"
	"hanse/services/client/core"
)

func (c *Keys) crossSigningRoutes(rt *core.Routes) {
	rt.Auth.Handle("POST /keys/device_signing/upload", c.uploadCrossSigning)
	rt.Auth.Handle("POST /keys/signatures/upload", c.uploadSignatures, httpx.MaxBody(core.LargeBody))
}

// crossKey is a cross-signing key object, checked.
type crossKey struct {
	raw    json.RawMessage // canonical
	public string          // base64
}

// keyID is the name of the key in signatures.
func (k *crossKey) keyID() string { return "ed25519:" + k.public }

// parseCrossKey checks a cross-signing key (client-server API, "Cross-signing"); nil if there is none.
func parseCrossKey(raw json.RawMessage, user id.User, usage string) (*crossKey, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var k struct {
		UserID id.User           `json:"user_id"`
		Usage  []string          `json:"usage"`
		Keys   map[string]string `json:"keys"`
	}
	if err := httpx.Unmarshal(raw, &k); err != nil {
		return nil, err
	}
	if k.UserID != user {
		return nil, merr.InvalidParam(usage + " key: user_id is not that of the access token")
	}
	if !slices.Contains(k.Usage, usage) {
		return nil, merr.InvalidParam(usage + " key: usage does not name it")
	}
	public := userdb.PublicKey(raw)
	if b, err := signing.Decode(public); err != nil || len(b) != 32 || k.Keys["ed25519:"+public] != public {
		return nil, merr.InvalidParam(usage + " key: must have exactly one ed25519 key")
	}
	canonical, err := canonjson.Canonical(raw)
	if err != nil {
		return nil, merr.BadJSON(usage + " key: " + err.Error())
	}
	return &crossKey{canonical, public}, nil
}

// signedBy reports whether a key of the user made a valid signature on the object.
func signedBy(obj json.RawMessage, user id.User, keyID, public string) bool {
	pub, err := signing.Decode(public)
	return err == nil && signing.VerifyJSON(obj, id.Server(user), keyID, pub) == nil
}

// uploadCrossSigning answers POST /keys/device_signing/upload (client-server API, "Cross-signing").
func (c *Keys) uploadCrossSigning(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		Master      json.RawMessage `json:"master_key"`
		SelfSigning json.RawMessage `json:"self_signing_key"`
		UserSigning json.RawMessage `json:"user_signing_key"`
	}
	s, err := c.uia.Begin(r, core.Me(r).User, &q)
	if err != nil {
		return err
	}
	ctx, user := r.Context(), core.Me(r).User
	keys := make(map[string]*crossKey)
	for usage, raw := range map[string]json.RawMessage{
		userdb.MasterKey: q.Master, userdb.SelfSigningKey: q.SelfSigning, userdb.UserSigningKey: q.UserSigning,
	} {
		k, err := parseCrossKey(raw, user, usage)
		if err != nil {
			return err
		}
		if k != nil {
			keys[usage] = k
		}
	}
	found, err := c.Users.KeysOf(ctx, []id.User{user}, user)
	if err != nil {
		return err
	}
	have := found[user]
	if have == nil {
		have = &userdb.UserKeys{}
	}
	if err := checkCrossKeys(keys, have, user); err != nil {
		return err
	}
	if len(keys) == 0 || sameKeys(keys, have) {
		return httpx.Empty(w) // a retry: nothing is new
	}
	if have.CrossSigning[userdb.MasterKey] != nil {
		if err := c.uia.Confirm(r, s); err != nil {
			return err
		}
	}
	store := make(map[string]json.RawMessage, len(keys))
	for usage, k := range keys {
		store[usage] = k.raw
	}
	task, err := c.Users.PutCrossSigningKeys(ctx, user, store)
	if err != nil {
		return err
	}
	c.Tasks.StartAndWait(ctx, task)
	return httpx.Empty(w)
}

// checkCrossKeys checks that the other keys are signed by the master key, new or present, and that no key is named like
// a device.
func checkCrossKeys(keys map[string]*crossKey, have *userdb.UserKeys, user id.User) error {
	for _, k := range keys {
		if _, ok := have.Devices[id.Device(k.public)]; ok {
			return merr.Forbidden("Key ID in use")
		}
	}
	master := keys[userdb.MasterKey]
	if master == nil {
		if raw := have.CrossSigning[userdb.MasterKey]; raw != nil {
			master = &crossKey{raw, userdb.PublicKey(raw)}
		}
	}
	for _, usage := range []string{userdb.SelfSigningKey, userdb.UserSigningKey} {
		k := keys[usage]
		if k == nil {
			continue
		}
		if master == nil {
			return merr.MissingParam("master_key")
		}
		if !signedBy(k.raw, user, master.keyID(), master.public) {
			return merr.InvalidSignature("The " + usage + " key is not signed by the master key")
		}
	}
	return nil
}

// sameKeys reports whether an upload brings nothing new.
func sameKeys(keys map[string]*crossKey, have *userdb.UserKeys) bool {
	for usage, k := range keys {
		if raw := have.CrossSigning[usage]; raw == nil || userdb.PublicKey(raw) != k.public {
			return false
		}
	}
	return true
}

// uploadSignatures answers POST /keys/signatures/upload. Signatures that do not verify are named in the answer; the
// others are stored.
func (c *Keys) uploadSignatures(w http.ResponseWriter, r *http.Request) error {
	var q map[id.User]map[string]json.RawMessage
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	ctx, signer := r.Context(), core.Me(r).User
	users := []id.User{signer}
	for u := range q {
		if _, err := id.ParseUser(string(u)); err != nil {
			return merr.InvalidParam("Not a user ID: " + string(u))
		}
		users = append(users, u)
	}
	keys, err := c.signableKeys(ctx, users, signer)
	if err != nil {
		return err
	}
	failures := make(map[id.User]map[string]any)
	var tasks []userdb.Task
	for u, objects := range q {
		s := &signatureCheck{signer: signer, user: u, own: keys[signer], of: keys[u]}
		for target, obj := range objects {
			if err := s.add(target, obj); err != nil {
				if failures[u] == nil {
					failures[u] = make(map[string]any)
				}
				e := merr.From(err)
				failures[u][target] = map[string]string{"errcode": e.Code, "error": e.Msg}
			}
		}
		if len(s.sigs) == 0 {
			continue
		}
		more, err := c.Users.PutSignatures(ctx, signer, u, s.sigs, s.changed)
		if err != nil {
			return err
		}
		tasks = append(tasks, more...)
	}
	c.Tasks.StartAndWait(ctx, tasks...)
	return httpx.OK(w, map[string]any{"failures": failures})
}

// signableKeys returns the keys of local users, and the master keys of others.
func (c *Keys) signableKeys(ctx context.Context, users []id.User, viewer id.User) (map[id.User]*userdb.UserKeys, error) {
	var local, remote []id.User
	for _, u := range users {
		if c.IsLocal(u) {
			local = append(local, u)
		} else {
			remote = append(remote, u)
		}
	}
	keys, err := c.Users.KeysOf(ctx, local, viewer)
	if err != nil {
		return nil, err
	}
	a := &keyAnswer{
		Failures: map[id.Server]any{}, DeviceKeys: map[id.User]map[id.Device]json.RawMessage{},
		MasterKeys: map[id.User]json.RawMessage{}, SelfSigning: map[id.User]json.RawMessage{}, UserSigning: map[id.User]json.RawMessage{},
	}
	if err := c.remoteKeys(ctx, a, remote, viewer, keyTimeout); err != nil {
		return nil, err
	}
	for u, raw := range a.MasterKeys {
		keys[u] = &userdb.UserKeys{CrossSigning: map[string]json.RawMessage{userdb.MasterKey: raw}}
	}
	for _, u := range users {
		if keys[u] == nil {
			keys[u] = &userdb.UserKeys{}
		}
	}
	return keys, nil
}

// signatureCheck collects the valid ones of the signatures that signer made on keys of user.
type signatureCheck struct {
	signer, user id.User
	own, of      *userdb.UserKeys // keys of signer and of user
	sigs         []userdb.Signature
	changed      []id.Device
}

// add checks the signatures on one object: a device of the signer, by the self-signing key; the signer's own master
// key, by one of the devices; the master key of somebody else, by the user-signing key.
func (s *signatureCheck) add(target string, obj json.RawMessage) error {
	var o struct {
		UserID     id.User                      `json:"user_id"`
		Signatures map[string]map[string]string `json:"signatures"`
	}
	if err := httpx.Unmarshal(obj, &o); err != nil {
		return err
	}
	if o.UserID != s.user {
		return merr.InvalidParam("user_id does not match")
	}
	stored, changed, err := s.target(target)
	if err != nil {
		return err
	}
	if !sameObject(obj, stored) {
		return merr.New(http.StatusBadRequest, merr.CodeInvalidParam, "The key is not the one that is known")
	}
	found := false
	for keyID, sig := range o.Signatures[string(s.signer)] {
		public, ok := s.signingKey(target, keyID)
		if !ok {
			continue
		}
		if !signedBy(obj, s.signer, keyID, public) {
			return merr.InvalidSignature("Invalid signature")
		}
		found = true
		s.sigs = append(s.sigs, userdb.Signature{User: s.user, Target: target, Signer: s.signer, SignerKeyID: keyID, Signature: sig})
	}
	if !found {
		return merr.InvalidSignature("No signature by a key that may sign this")
	}
	if s.user == s.signer && !slices.Contains(s.changed, changed) {
		s.changed = append(s.changed, changed)
	}
	return nil
}

// target returns the stored form of what is signed, and the device whose change that is ("" for the master key).
func (s *signatureCheck) target(target string) (json.RawMessage, id.Device, error) {
	if s.user == s.signer {
		if raw := s.of.Devices[id.Device(target)]; raw != nil {
			return raw, id.Device(target), nil
		}
	}
	if raw := s.of.CrossSigning[userdb.MasterKey]; raw != nil && userdb.PublicKey(raw) == target {
		return raw, "", nil
	}
	return nil, "", merr.NotFound("No such key")
}

// signingKey returns the public key by that name, if it is one that may sign the target.
func (s *signatureCheck) signingKey(target, keyID string) (string, bool) {
	if s.user != s.signer {
		return named(s.own.CrossSigning[userdb.UserSigningKey], keyID)
	}
	if _, isDevice := s.of.Devices[id.Device(target)]; isDevice {
		return named(s.own.CrossSigning[userdb.SelfSigningKey], keyID)
	}
	for _, raw := range s.own.Devices {
		if public, ok := named(raw, keyID); ok {
			return public, true
		}
	}
	return "", false
}

// named returns a public key of a key object by its name.
func named(raw json.RawMessage, keyID string) (string, bool) {
	var k struct {
		Keys map[string]string `json:"keys"`
	}
	if len(raw) == 0 || json.Unmarshal(raw, &k) != nil {
		return "", false
	}
	public, ok := k.Keys[keyID]
	return public, ok
}

// sameObject compares two signed objects without signatures and unsigned parts.
func sameObject(a, b json.RawMessage) bool {
	strip := func(raw json.RawMessage) string {
		canonical, err := canonjson.CanonicalLoose(raw)
		if err != nil {
			return ""
		}
		o, err := canonjson.ParseObject(canonical)
		if err != nil {
			return ""
		}
		return string(o.Without("signatures", "unsigned").Bytes())
	}
	x := strip(a)
	return x != "" && x == strip(b)
}
