//go:build goolm

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// person is one device of somebody.
type person struct {
	as       string
	client   *mautrix.Client
	mach     *crypto.OlmMachine
	stopSync context.CancelFunc
	synced   chan struct{}
}

type sessionArgs struct {
	Base, User, Password, Device string
}

// session is what the test learns of an account.
type session struct {
	UserID   id.UserID   `json:"user_id"`
	DeviceID id.DeviceID `json:"device_id"`
	Token    string      `json:"access_token"`
}

// do carries out a request.
func (p *person) do(ctx context.Context, r request) (any, error) {
	switch r.Do {
	case "register":
		return with(r.In, func(a sessionArgs) (any, error) { return p.register(ctx, a) })
	case "login":
		return with(r.In, func(a sessionArgs) (any, error) { return p.login(ctx, a) })
	}
	if p.client == nil {
		return nil, errors.New("not logged in")
	}
	if op, ok := operations[r.Do]; ok {
		return op(ctx, p, r.In)
	}
	return nil, fmt.Errorf("%w: %s", errors.ErrUnsupported, r.Do)
}

// with decodes arguments.
func with[A any](raw json.RawMessage, f func(A) (any, error)) (any, error) {
	var a A
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &a); err != nil {
			return nil, err
		}
	}
	return f(a)
}

func (p *person) open(base string) (err error) {
	p.client, err = mautrix.NewClient(base, "", "")
	if err != nil {
		return err
	}
	p.client.Log = zerolog.Nop()
	p.client.StateStore = mautrix.NewMemoryStateStore()
	return nil
}

func (p *person) register(ctx context.Context, a sessionArgs) (any, error) {
	if err := p.open(a.Base); err != nil {
		return nil, err
	}
	resp, err := p.client.RegisterDummy(ctx, &mautrix.ReqRegister[any]{Username: a.User, Password: a.Password, DeviceID: id.DeviceID(a.Device)})
	if err != nil {
		return nil, err
	}
	p.client.UserID, p.client.DeviceID, p.client.AccessToken = resp.UserID, resp.DeviceID, resp.AccessToken
	return session{resp.UserID, resp.DeviceID, resp.AccessToken}, nil
}

func (p *person) login(ctx context.Context, a sessionArgs) (any, error) {
	if err := p.open(a.Base); err != nil {
		return nil, err
	}
	resp, err := p.client.Login(ctx, &mautrix.ReqLogin{
		Type: mautrix.AuthTypePassword, Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: a.User},
		Password: a.Password, DeviceID: id.DeviceID(a.Device), StoreCredentials: true,
	})
	if err != nil {
		return nil, err
	}
	return session{resp.UserID, resp.DeviceID, resp.AccessToken}, nil
}

// start uploads keys and syncs in the background; it returns when the first sync has been handled.
func (p *person) start(ctx context.Context) error {
	store := p.client.StateStore.(*mautrix.MemoryStateStore)
	log := zerolog.Nop()
	p.mach = crypto.NewOlmMachine(p.client, &log, crypto.NewMemoryStore(nil), store)
	p.mach.ShareKeysMinTrust = id.TrustStateCrossSignedTOFU
	if err := p.mach.Load(ctx); err != nil {
		return err
	}
	if err := p.mach.ShareKeys(ctx, -1); err != nil {
		return err
	}
	p.client.Crypto = &cryptoOf{p}
	p.synced = make(chan struct{})
	syncer := p.client.Syncer.(*mautrix.DefaultSyncer)
	syncer.FilterJSON = &mautrix.Filter{Room: &mautrix.RoomFilter{Timeline: &mautrix.FilterPart{Limit: 50}}}
	syncer.OnSync(p.mach.ProcessSyncResponse)
	syncer.OnSync(p.noteLists)
	syncer.OnEvent(p.client.StateStoreSyncHandler)
	syncer.OnEventType(event.StateMember, p.mach.HandleMemberEvent)
	syncer.OnEvent(p.note)
	syncCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p.stopSync = cancel
	ended := make(chan error, 1)
	go func() {
		err := p.client.SyncWithContext(syncCtx)
		if syncCtx.Err() == nil {
			write(note{As: p.as, Kind: "sync_ended", Content: raw(fmt.Sprint(err))})
		}
		ended <- err
	}()
	select {
	case <-p.synced:
		return nil
	case err := <-ended:
		return fmt.Errorf("sync: %w", err)
	case <-time.After(60 * time.Second):
		return errors.New("the first sync takes too long")
	}
}

// cryptoOf is what the client encrypts with: it shares the room's session with its members when need be.
type cryptoOf struct{ p *person }

func (c *cryptoOf) Init(context.Context) error { return nil }

func (c *cryptoOf) Decrypt(ctx context.Context, e *event.Event) (*event.Event, error) {
	return c.p.mach.DecryptMegolmEvent(ctx, e)
}

func (c *cryptoOf) Encrypt(ctx context.Context, room id.RoomID, typ event.Type, content any) (*event.EncryptedEventContent, error) {
	encrypted, err := c.p.mach.EncryptMegolmEvent(ctx, room, typ, content)
	if err == nil || !errors.Is(err, crypto.ErrSessionExpired) && !errors.Is(err, crypto.ErrNoGroupSession) && !errors.Is(err, crypto.ErrSessionNotShared) {
		return encrypted, err
	}
	members, err := c.p.client.JoinedMembers(ctx, room)
	if err != nil {
		return nil, err
	}
	users := make([]id.UserID, 0, len(members.Joined))
	for user := range members.Joined {
		users = append(users, user)
	}
	if err := c.p.mach.ShareGroupSession(ctx, room, users); err != nil {
		return nil, err
	}
	return c.p.mach.EncryptMegolmEvent(ctx, room, typ, content)
}

func (c *cryptoOf) WaitForSession(ctx context.Context, room id.RoomID, key id.SenderKey, sess id.SessionID, d time.Duration) bool {
	return c.p.mach.WaitForSession(ctx, room, key, sess, d)
}

func (c *cryptoOf) RequestSession(ctx context.Context, room id.RoomID, key id.SenderKey, sess id.SessionID, user id.UserID, device id.DeviceID) {
	if err := c.p.mach.SendRoomKeyRequest(ctx, room, key, sess, "", map[id.UserID][]id.DeviceID{
		user: {device}, c.p.client.UserID: {"*"}}); err != nil {
		write(note{As: c.p.as, Kind: "error", Content: raw(err.Error())})
	}
}
