package keys

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"slices"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/userdb"
	"hanse/services/client/core"
)

const (
	maxToDevice = 10_000 // recipients of one request
	maxTxnID    = 255
)

func (c *Keys) toDeviceRoutes(rt *core.Routes) {
	rt.Guest.Handle("PUT /sendToDevice/{eventType}/{txnId}", c.sendToDevice, httpx.MaxBody(core.LargeBody))
}

// sendToDevice answers PUT /sendToDevice/{eventType}/{txnId} (client-server API, "Send-to-Device messaging").
func (c *Keys) sendToDevice(w http.ResponseWriter, r *http.Request) error {
	typ, txnID := core.Param(r, "eventType"), core.Param(r, "txnId")
	if typ == "" || len(typ) > 255 {
		return merr.InvalidParam("Not an event type")
	}
	if txnID == "" || len(txnID) > maxTxnID {
		return merr.InvalidParam("Not a transaction ID")
	}
	if err := c.Limit(r, "to_device"); err != nil {
		return err
	}
	var q struct {
		Messages *map[id.User]map[id.Device]json.RawMessage `json:"messages"`
	}
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	if q.Messages == nil {
		return merr.MissingParam("messages")
	}
	i := core.Me(r)
	local, remote, err := c.sortMessages(i.User, typ, *q.Messages)
	if err != nil {
		return err
	}
	txn := &userdb.Txn{User: i.User, Device: i.Device, Endpoint: "sendToDevice/" + typ, ID: txnID}
	ctx := r.Context()
	if done, err := c.Users.HasTxn(ctx, *txn); err != nil || done {
		if err != nil {
			return err
		}
		return httpx.Empty(w)
	}
	// Other servers first: they know a repeated message by its id, so that a crash between can only repeat.
	for server, messages := range remote {
		if err := c.queueToDevice(r, server, typ, messages, txn); err != nil {
			return err
		}
	}
	if err := c.Users.SendToDevice(ctx, local, txn); err != nil {
		return err
	}
	return httpx.Empty(w)
}

func (c *Keys) sortMessages(sender id.User, typ string, in map[id.User]map[id.Device]json.RawMessage) (
	local []userdb.ToDevice, remote map[id.Server]map[id.User]map[id.Device]json.RawMessage, err error) {
	remote = make(map[id.Server]map[id.User]map[id.Device]json.RawMessage)
	n := 0
	for u, devices := range in {
		if _, err := id.ParseUser(string(u)); err != nil {
			return nil, nil, merr.InvalidParam("Not a user ID: " + string(u))
		}
		for dev, content := range devices {
			if _, err := id.ParseDevice(string(dev)); err != nil {
				return nil, nil, merr.InvalidParam("Not a device ID").WithCause(err)
			}
			if len(content) == 0 || content[0] != '{' {
				return nil, nil, merr.BadJSON("The content of a message must be an object")
			}
			if n++; n > maxToDevice {
				return nil, nil, merr.InvalidParam("Too many messages")
			}
			if c.IsLocal(u) {
				local = append(local, userdb.ToDevice{User: u, Device: dev, Sender: sender, Type: typ, Content: content})
			}
		}
		if !c.IsLocal(u) && len(devices) > 0 {
			s := u.Server()
			if remote[s] == nil {
				remote[s] = make(map[id.User]map[id.Device]json.RawMessage)
			}
			remote[s][u] = devices
		}
	}
	return local, remote, nil
}

// maxEDU bounds the content of one m.direct_to_device; messages beyond it go as several.
const maxEDU = 48 << 10

// queueToDevice stores messages to another server as EDUs (server-server API, "Send-to-device messaging"). Their ids
// follow from the transaction, so that a repeated request makes the same ones.
func (c *Keys) queueToDevice(r *http.Request, server id.Server, typ string, messages map[id.User]map[id.Device]json.RawMessage, txn *userdb.Txn) error {
	batch, size, n := make(map[id.User]map[id.Device]json.RawMessage), 0, 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		sum := sha256.Sum256([]byte(string(txn.User) + "\x00" + string(txn.Device) + "\x00" + txn.Endpoint + "\x00" + txn.ID + "\x00" + string(server) + "\x00" + string(rune(n))))
		messageID := base64.RawURLEncoding.EncodeToString(sum[:18])
		content, err := json.Marshal(map[string]any{"sender": txn.User, "type": typ, "message_id": messageID, "messages": batch})
		if err != nil {
			return err
		}
		batch, size, n = make(map[id.User]map[id.Device]json.RawMessage), 0, n+1
		return c.Users.QueueEDU(r.Context(), txn.User.Server(), server, "m.direct_to_device", messageID, content)
	}
	for _, u := range slices.Sorted(maps.Keys(messages)) {
		for _, dev := range slices.Sorted(maps.Keys(messages[u])) {
			if size += len(messages[u][dev]) + len(u) + len(dev); size > maxEDU {
				if err := flush(); err != nil {
					return err
				}
				size = len(messages[u][dev])
			}
			if batch[u] == nil {
				batch[u] = make(map[id.Device]json.RawMessage)
			}
			batch[u][dev] = messages[u][dev]
		}
	}
	return flush()
}
