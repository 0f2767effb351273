package keys

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/userdb"
	"hanse/services/client/core"
)

func (c *Keys) backupRoutes(rt *core.Routes) {
	rt.Auth.Handle("POST /room_keys/version", c.createBackup)
	rt.Auth.Handle("GET /room_keys/version", c.getBackup)
	rt.Auth.Handle("GET /room_keys/version/{version}", c.getBackup)
	rt.Auth.Handle("PUT /room_keys/version/{version}", c.putBackup)
	rt.Auth.Handle("DELETE /room_keys/version/{version}", c.deleteBackup)
	for _, path := range []string{"/room_keys/keys", "/room_keys/keys/{roomId}", "/room_keys/keys/{roomId}/{sessionId}"} {
		rt.Auth.Handle("PUT "+path, c.putBackupKeys, httpx.MaxBody(core.LargeBody))
		rt.Auth.Handle("GET "+path, c.getBackupKeys)
		rt.Auth.Handle("DELETE "+path, c.deleteBackupKeys)
	}
}

type backupBody struct {
	Algorithm string          `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
	Version   string          `json:"version"`
}

func decodeBackup(r *http.Request) (*backupBody, error) {
	var q backupBody
	if err := httpx.Decode(r, &q); err != nil {
		return nil, err
	}
	if q.Algorithm == "" {
		return nil, merr.MissingParam("algorithm")
	}
	if len(q.AuthData) == 0 || q.AuthData[0] != '{' {
		return nil, merr.MissingParam("auth_data")
	}
	return &q, nil
}

// createBackup answers POST /room_keys/version (client-server API, "Server-side key backups").
func (c *Keys) createBackup(w http.ResponseWriter, r *http.Request) error {
	q, err := decodeBackup(r)
	if err != nil {
		return err
	}
	if err := c.CheckData(len(q.AuthData)); err != nil {
		return err
	}
	if err := c.MayStore(r.Context(), core.Me(r).User, userdb.StoredBackups, c.Quotas.Backups); err != nil {
		return err
	}
	v, err := c.Users.CreateBackup(r.Context(), core.Me(r).User, q.Algorithm, q.AuthData)
	if err != nil {
		return err
	}
	return httpx.OK(w, map[string]string{"version": strconv.FormatInt(v, 10)})
}

var errNoBackup = merr.NotFound("No current backup version")

// backupVersion parses a version; one that cannot exist is not found.
func backupVersion(s string) (int64, error) {
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil || v <= 0 {
		return 0, errNoBackup
	}
	return v, nil
}

func backupError(err error) error {
	var wrong *userdb.WrongVersion
	switch {
	case errors.Is(err, userdb.ErrNotFound):
		return errNoBackup
	case errors.As(err, &wrong):
		return merr.WrongRoomKeysVersion(wrong.Current)
	}
	return err
}

func (c *Keys) getBackup(w http.ResponseWriter, r *http.Request) error {
	var v int64
	if s := core.Param(r, "version"); s != "" {
		var err error
		if v, err = backupVersion(s); err != nil {
			return err
		}
	}
	b, err := c.Users.Backup(r.Context(), core.Me(r).User, v)
	if err != nil {
		return backupError(err)
	}
	return httpx.OK(w, map[string]any{
		"algorithm": b.Algorithm, "auth_data": b.AuthData, "count": b.Count,
		"etag": strconv.FormatInt(b.ETag, 10), "version": strconv.FormatInt(b.Version, 10),
	})
}

func (c *Keys) putBackup(w http.ResponseWriter, r *http.Request) error {
	q, err := decodeBackup(r)
	if err != nil {
		return err
	}
	v, err := backupVersion(core.Param(r, "version"))
	if err != nil {
		return err
	}
	if q.Version != "" && q.Version != core.Param(r, "version") {
		return merr.InvalidParam("version does not match the path")
	}
	ctx, user := r.Context(), core.Me(r).User
	b, err := c.Users.Backup(ctx, user, v)
	if err != nil {
		return backupError(err)
	}
	if b.Algorithm != q.Algorithm {
		return merr.InvalidParam("Algorithm does not match")
	}
	if err := c.CheckData(len(q.AuthData)); err != nil {
		return err
	}
	if err := c.Users.SetBackupAuth(ctx, user, v, q.AuthData); err != nil {
		return backupError(err)
	}
	return httpx.Empty(w)
}

func (c *Keys) deleteBackup(w http.ResponseWriter, r *http.Request) error {
	v, err := backupVersion(core.Param(r, "version"))
	if err != nil {
		return err
	}
	if err := c.Users.DeleteBackup(r.Context(), core.Me(r).User, v); err != nil {
		return backupError(err)
	}
	return httpx.Empty(w)
}

// backupSession is one key as clients send and get it.
type backupSession struct {
	FirstMessageIndex *int64          `json:"first_message_index"`
	ForwardedCount    *int64          `json:"forwarded_count"`
	IsVerified        *bool           `json:"is_verified"`
	SessionData       json.RawMessage `json:"session_data"`
}

func (s *backupSession) stored(room id.Room, session string) (userdb.BackupSession, error) {
	if s.FirstMessageIndex == nil || s.ForwardedCount == nil || s.IsVerified == nil || len(s.SessionData) == 0 || s.SessionData[0] != '{' {
		return userdb.BackupSession{}, merr.BadJSON("A session needs first_message_index, forwarded_count, is_verified and session_data")
	}
	if *s.FirstMessageIndex < 0 || *s.ForwardedCount < 0 {
		return userdb.BackupSession{}, merr.InvalidParam("first_message_index and forwarded_count must not be negative")
	}
	return userdb.BackupSession{
		Room: room, Session: session, FirstMessageIndex: *s.FirstMessageIndex, ForwardedCount: *s.ForwardedCount,
		IsVerified: *s.IsVerified, SessionData: s.SessionData,
	}, nil
}

type backupRoom struct {
	Sessions map[string]*backupSession `json:"sessions"`
}

// backupScope is what a request about keys names: the version, and perhaps a room and a session.
type backupScope struct {
	version int64
	room    id.Room
	session string
}

func scopeOf(r *http.Request) (backupScope, error) {
	s := backupScope{session: core.Param(r, "sessionId")}
	q := r.URL.Query()
	if !q.Has("version") {
		return s, merr.MissingParam("version")
	}
	var err error
	if s.version, err = backupVersion(q.Get("version")); err != nil {
		return s, err
	}
	if core.Param(r, "roomId") != "" {
		s.room, err = core.PathRoom(r)
	}
	return s, err
}

// parseSessions reads the three shapes of PUT: one session, those of a room, those of all rooms.
func parseSessions(r *http.Request, s backupScope) ([]userdb.BackupSession, error) {
	body, err := httpx.JSONBody(r)
	if err != nil {
		return nil, err
	}
	rooms := make(map[id.Room]*backupRoom)
	switch {
	case s.session != "":
		one := new(backupSession)
		if err := httpx.Unmarshal(body, one); err != nil {
			return nil, err
		}
		rooms[s.room] = &backupRoom{map[string]*backupSession{s.session: one}}
	case s.room != "":
		room := new(backupRoom)
		if err := httpx.Unmarshal(body, room); err != nil {
			return nil, err
		}
		rooms[s.room] = room
	default:
		var all struct {
			Rooms map[id.Room]*backupRoom `json:"rooms"`
		}
		if err := httpx.Unmarshal(body, &all); err != nil {
			return nil, err
		}
		if all.Rooms == nil {
			return nil, merr.BadJSON("rooms is missing")
		}
		rooms = all.Rooms
	}
	return flatten(rooms)
}

func flatten(rooms map[id.Room]*backupRoom) ([]userdb.BackupSession, error) {
	var out []userdb.BackupSession
	for room, sessions := range rooms {
		if _, err := id.ParseRoom(string(room)); err != nil {
			return nil, merr.InvalidParam("Not a room ID: " + string(room))
		}
		if sessions == nil || sessions.Sessions == nil {
			return nil, merr.BadJSON("sessions is missing")
		}
		for name, session := range sessions.Sessions {
			if session == nil || name == "" {
				return nil, merr.BadJSON("Not a session")
			}
			stored, err := session.stored(room, name)
			if err != nil {
				return nil, err
			}
			out = append(out, stored)
		}
	}
	return out, nil
}

func (c *Keys) putBackupKeys(w http.ResponseWriter, r *http.Request) error {
	s, err := scopeOf(r)
	if err != nil {
		return err
	}
	sessions, err := parseSessions(r, s)
	if err != nil {
		return err
	}
	if err := c.mayBackUp(r.Context(), core.Me(r).User, s.version, sessions); err != nil {
		return err
	}
	etag, count, err := c.Users.PutBackupSessions(r.Context(), core.Me(r).User, s.version, sessions)
	return answerBackup(w, etag, count, err)
}

// mayBackUp checks the quotas of the backup. Sessions that are there already count as new ones: a full backup takes none.
func (c *Keys) mayBackUp(ctx context.Context, user id.User, version int64, sessions []userdb.BackupSession) error {
	for _, s := range sessions {
		if int64(len(s.SessionData)) > c.Quotas.BackupSession {
			return merr.TooLarge("The data of a session are too large")
		}
		if len(s.Session) > maxSessionID {
			return merr.InvalidParam("Not a session ID")
		}
	}
	b, err := c.Users.Backup(ctx, user, version)
	if err != nil {
		return backupError(err)
	}
	if b.Count+int64(len(sessions)) > c.Quotas.BackupSessions {
		return c.Exceeded("sessions in a key backup", c.Quotas.BackupSessions)
	}
	return nil
}

// maxSessionID bounds the names of sessions in a backup, in bytes.
const maxSessionID = 255

func (c *Keys) deleteBackupKeys(w http.ResponseWriter, r *http.Request) error {
	s, err := scopeOf(r)
	if err != nil {
		return err
	}
	etag, count, err := c.Users.DeleteBackupSessions(r.Context(), core.Me(r).User, s.version, s.room, s.session)
	return answerBackup(w, etag, count, err)
}

func answerBackup(w http.ResponseWriter, etag, count int64, err error) error {
	if err != nil {
		return backupError(err)
	}
	return httpx.OK(w, map[string]any{"etag": strconv.FormatInt(etag, 10), "count": count})
}

func (c *Keys) getBackupKeys(w http.ResponseWriter, r *http.Request) error {
	s, err := scopeOf(r)
	if err != nil {
		return err
	}
	ctx, user := r.Context(), core.Me(r).User
	if _, err := c.Users.Backup(ctx, user, s.version); err != nil {
		return backupError(err)
	}
	found, err := c.Users.BackupSessions(ctx, user, s.version, s.room, s.session)
	if err != nil {
		return err
	}
	rooms := make(map[id.Room]*backupRoom)
	for _, k := range found {
		if rooms[k.Room] == nil {
			rooms[k.Room] = &backupRoom{make(map[string]*backupSession)}
		}
		rooms[k.Room].Sessions[k.Session] = &backupSession{&k.FirstMessageIndex, &k.ForwardedCount, &k.IsVerified, k.SessionData}
	}
	switch {
	case s.session != "":
		if len(found) == 0 {
			return merr.NotFound("No room_keys found")
		}
		return httpx.OK(w, rooms[s.room].Sessions[s.session])
	case s.room != "":
		if rooms[s.room] == nil {
			return httpx.OK(w, backupRoom{map[string]*backupSession{}})
		}
		return httpx.OK(w, rooms[s.room])
	}
	return httpx.OK(w, map[string]any{"rooms": rooms})
}
