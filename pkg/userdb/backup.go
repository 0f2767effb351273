package userdb

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"hanse/pkg/matrix/id"
	"hanse/pkg/userdb/db"
)

// Backup is a version of a server-side key backup.
type Backup struct {
	Version   int64
	Algorithm string
	AuthData  json.RawMessage
	ETag      int64
	Count     int64
}

// BackupSession is a backed-up session key.
type BackupSession struct {
	Room              id.Room
	Session           string
	FirstMessageIndex int64
	ForwardedCount    int64
	IsVerified        bool
	SessionData       json.RawMessage
}

// WrongVersion is returned for writes to a backup that is not the latest. Current is empty if there is none.
type WrongVersion struct{ Current string }

func (e *WrongVersion) Error() string { return "the latest backup is version " + e.Current }

// CreateBackup creates the next version.
func (d *DB) CreateBackup(ctx context.Context, user id.User, algorithm string, authData json.RawMessage) (version int64, err error) {
	// The stream's row lock keeps two of a user's devices from taking the same number.
	_, err = d.Change(ctx, user, func(tx *Tx) error {
		version, err = tx.Queries.CreateBackup(ctx, db.CreateBackupParams{Part: tx.Part, UserID: string(user), Algorithm: algorithm, AuthData: authData})
		return err
	})
	return version, err
}

// Backup returns a version, 0 for the latest, or ErrNotFound.
func (d *DB) Backup(ctx context.Context, user id.User, version int64) (Backup, error) {
	q, part := d.At(user)
	if version == 0 {
		r, err := q.LatestBackup(ctx, part, string(user))
		return Backup{r.Version, r.Algorithm, r.AuthData, r.Etag, r.Count}, notFound(err)
	}
	r, err := q.Backup(ctx, part, string(user), version)
	return Backup{r.Version, r.Algorithm, r.AuthData, r.Etag, r.Count}, notFound(err)
}

// SetBackupAuth replaces the auth data of a version, or returns ErrNotFound.
func (d *DB) SetBackupAuth(ctx context.Context, user id.User, version int64, authData json.RawMessage) error {
	q, part := d.At(user)
	n, err := q.SetBackupAuth(ctx, db.SetBackupAuthParams{Part: part, UserID: string(user), Version: version, AuthData: authData})
	if err == nil && n == 0 {
		return ErrNotFound
	}
	return err
}

// DeleteBackup deletes a version with its keys, or returns ErrNotFound.
func (d *DB) DeleteBackup(ctx context.Context, user id.User, version int64) error {
	return d.Within(ctx, user, func(tx *Tx) error {
		n, err := tx.Queries.DeleteBackup(ctx, tx.Part, string(user), version)
		if err != nil {
			return err
		}
		if n == 0 {
			return ErrNotFound
		}
		_, err = tx.DeleteBackupSessions(ctx, db.DeleteBackupSessionsParams{Part: tx.Part, UserID: string(user), Version: version})
		return err
	})
}

// PutBackupSessions adds keys to the latest version; a key that is there already is replaced by a better one only.
func (d *DB) PutBackupSessions(ctx context.Context, user id.User, version int64, sessions []BackupSession) (etag, count int64, err error) {
	p := db.PutBackupSessionsParams{UserID: string(user), Version: version}
	for _, s := range sessions {
		p.RoomIds = append(p.RoomIds, string(s.Room))
		p.SessionIds = append(p.SessionIds, s.Session)
		p.Firsts = append(p.Firsts, s.FirstMessageIndex)
		p.Forwardeds = append(p.Forwardeds, s.ForwardedCount)
		p.Verifieds = append(p.Verifieds, s.IsVerified)
		p.Datas = append(p.Datas, s.SessionData)
	}
	return d.changeBackup(ctx, user, version, true, func(tx *Tx) (int64, error) {
		p.Part = tx.Part
		return tx.Queries.PutBackupSessions(ctx, p)
	})
}

// DeleteBackupSessions deletes keys: all, those of a room, or one.
func (d *DB) DeleteBackupSessions(ctx context.Context, user id.User, version int64, room id.Room, session string) (etag, count int64, err error) {
	return d.changeBackup(ctx, user, version, false, func(tx *Tx) (int64, error) {
		return tx.Queries.DeleteBackupSessions(ctx, db.DeleteBackupSessionsParams{
			Part: tx.Part, UserID: string(user), Version: version, RoomID: string(room), SessionID: session,
		})
	})
}

// changeBackup runs fn under the backup's lock and renews etag and count if fn changed anything.
func (d *DB) changeBackup(ctx context.Context, user id.User, version int64, latestOnly bool, fn func(tx *Tx) (int64, error)) (etag, count int64, err error) {
	err = d.Within(ctx, user, func(tx *Tx) error {
		latest, err := tx.LockLatestBackup(ctx, tx.Part, string(user))
		if err != nil {
			return notFound(err)
		}
		if latest.Version != version {
			if latestOnly {
				return &WrongVersion{strconv.FormatInt(latest.Version, 10)}
			}
			if _, err := tx.Queries.Backup(ctx, tx.Part, string(user), version); err != nil {
				return notFound(err)
			}
		}
		n, err := fn(tx)
		if err != nil {
			return fmt.Errorf("change backup: %w", err)
		}
		if etag, count = latest.Etag, latest.Count; n == 0 && latest.Version == version {
			return nil
		}
		r, err := tx.TouchBackup(ctx, tx.Part, string(user), version)
		etag, count = r.Etag, r.Count
		return err
	})
	return etag, count, err
}

// BackupSessions returns keys of a version: all, those of a room, or one.
func (d *DB) BackupSessions(ctx context.Context, user id.User, version int64, room id.Room, session string) ([]BackupSession, error) {
	q, part := d.At(user)
	rows, err := q.BackupSessions(ctx, db.BackupSessionsParams{Part: part, UserID: string(user), Version: version, RoomID: string(room), SessionID: session})
	if err != nil {
		return nil, fmt.Errorf("read backup: %w", err)
	}
	out := make([]BackupSession, len(rows))
	for i, r := range rows {
		out[i] = BackupSession{id.Room(r.RoomID), r.SessionID, r.FirstMessageIndex, r.ForwardedCount, r.IsVerified, r.SessionData}
	}
	return out, nil
}
