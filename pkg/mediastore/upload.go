package mediastore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"gocloud.dev/blob"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
)

// Upload is what is uploaded.
type Upload struct {
	ID
	// Reserved is whether the ID was reserved before.
	Reserved bool
	Remote   bool
	User     id.User
	Type     string
	Name     string
	// Max is how many bytes it may have, Length how many it has, if that is known and true.
	Max, Length int64
	// Check may refuse a media whose bytes have all arrived. It is not ready before.
	Check func(ctx context.Context, m *Media) error
}

// copyBuffer is what a file goes through on its way.
const copyBuffer = 64 << 10

// Reserve makes a media that waits for its upload, until the time that is returned.
func (s *Store) Reserve(ctx context.Context, i ID, user id.User) (time.Time, error) {
	now := s.now()
	_, err := s.shards.For(i.Part()).Exec(ctx, sqlInsert, i.Part(), i.Origin, i.Media, Reserved, false, user, "", "", "", now.UnixMilli())
	return now.Add(s.cfg.Reserve), err
}

const sqlReserved = `SELECT count(*) FROM media WHERE part = ANY($1) AND user_id = $2 AND state = 0 AND touched_ts > $3`

// Reservations is how many media a user has reserved and not uploaded.
func (s *Store) Reservations(ctx context.Context, user id.User) (n int64, err error) {
	for pool, parts := range s.shards.Groups(s.allParts()) {
		var here int64
		if err := pool.QueryRow(ctx, sqlReserved, ints(parts), user, s.now().Add(-s.cfg.Reserve).UnixMilli()).Scan(&here); err != nil {
			return 0, err
		}
		n += here
	}
	return n, nil
}

// Put stores a media. Its bytes go to the store as they are read. Who has reserved it may try again after an error.
func (s *Store) Put(ctx context.Context, u Upload, r io.Reader) (*Media, error) {
	m := &Media{ID: u.ID, State: Arriving, Remote: u.Remote, User: u.User, Type: u.Type, Name: u.Name, Object: newObject("m"), Created: s.now()}
	if err := s.begin(ctx, m, u.Reserved); err != nil {
		return nil, err
	}
	err := s.write(ctx, m, u, r)
	if err == nil {
		err = s.commit(ctx, m, u.Check)
	}
	if err != nil {
		if _, known := s.Get(ctx, m.ID); errors.Is(known, ErrNotFound) {
			err = ErrNotFound // it was deleted meanwhile, and what was written with it
		}
		s.undo(ctx, m, u.Reserved)
		return nil, err
	}
	return m, nil
}

func (s *Store) begin(ctx context.Context, m *Media, reserved bool) error {
	pool, now := s.shards.For(m.Part()), s.now()
	if reserved {
		tag, err := pool.Exec(ctx, sqlBegin, m.Part(), m.Origin, m.Media, m.Object, m.Type, m.Name, now.UnixMilli(), now.Add(-s.cfg.Reserve).UnixMilli())
		if err == nil && tag.RowsAffected() == 0 {
			err = ErrExists
		}
		return err
	}
	tag, err := pool.Exec(ctx, sqlInsert, m.Part(), m.Origin, m.Media, Arriving, m.Remote, m.User, m.Object, m.Type, m.Name, now.UnixMilli())
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrExists
	}
	return err
}

// write copies the bytes to the store, and learns their number and hash.
func (s *Store) write(ctx context.Context, m *Media, u Upload, r io.Reader) (err error) {
	seen := &seen{r: r, most: u.Max, hash: sha256.New()}
	if s.s3 == nil {
		err = s.writeFile(ctx, m.Object, seen)
	} else if err = s.s3.put(ctx, m.Object, seen, u.Length); err == nil {
		err = s.step("written")
	}
	if err != nil {
		return fmt.Errorf("write media: %w", err)
	}
	m.Bytes, m.Hash = seen.n, seen.hash.Sum(nil)
	return nil
}

// writeFile writes a file of a directory.
func (s *Store) writeFile(ctx context.Context, object string, r io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := s.bucket.NewWriter(ctx, object, &blob.WriterOptions{ContentType: "application/octet-stream", DisableContentTypeDetection: true})
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, copyBuffer))
	if err == nil {
		err = s.step("written")
	}
	if err != nil {
		cancel() // nothing is left of what was written
		_ = w.Close()
		return err
	}
	return w.Close()
}

// seen counts and hashes what is read, and ends what is too large.
type seen struct {
	r       io.Reader
	n, most int64
	hash    hash.Hash
}

// Read implements io.Reader.
func (s *seen) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.n += int64(n)
	s.hash.Write(p[:n])
	if s.n > s.most {
		return 0, ErrTooLarge
	}
	return n, err
}

// blobPart is the partition of a hash.
func blobPart(hash []byte) uint32 { return partition.Of(string(hash)) }

// commit makes a media ready whose bytes are in the store.
func (s *Store) commit(ctx context.Context, m *Media, check func(context.Context, *Media) error) error {
	pool := s.shards.For(m.Part())
	tag, err := pool.Exec(ctx, sqlStored, m.Part(), m.Origin, m.Media, m.Object, m.Hash, m.Bytes, s.now().UnixMilli())
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return err
	}
	m.State = Stored
	if err := s.step("stored"); err != nil {
		return err
	}
	if check != nil {
		if err := check(ctx, m); err != nil {
			return err
		}
	}
	object, err := s.share(ctx, m)
	if err != nil {
		return err
	}
	if err := s.step("shared"); err != nil {
		return err
	}
	err = pg.InTx(ctx, pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, sqlReady, m.Part(), m.Origin, m.Media, m.Object, object, s.now().UnixMilli())
		if err == nil && tag.RowsAffected() == 0 {
			err = ErrNotFound // it was deleted meanwhile
		}
		if err != nil {
			return err
		}
		return count(ctx, tx, m, 1)
	})
	if err != nil {
		return err
	}
	if object != m.Object {
		s.collectSoon(ctx, blobPart(m.Hash))
	}
	m.State, m.Object = Ready, object
	return nil
}

// share notes that the media uses the object that has its bytes, which may be one that was there before.
func (s *Store) share(ctx context.Context, m *Media) (object string, err error) {
	part := blobPart(m.Hash)
	err = pg.InTx(ctx, s.shards.For(part), func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, sqlBlob, part, m.Hash, m.Object, m.Bytes).Scan(&object); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, sqlRef, part, m.Hash, m.Origin, m.Media)
		return err
	})
	if err != nil || object == m.Object {
		return object, err
	}
	// An object that the store has lost gets its bytes back.
	if ok, err := s.bucket.Exists(ctx, object); err != nil {
		return "", err
	} else if !ok {
		if err := s.bucket.Copy(ctx, object, m.Object, nil); err != nil {
			return "", fmt.Errorf("restore object: %w", err)
		}
	}
	_, err = s.shards.For(part).Exec(ctx, sqlGarbage, part, m.Object)
	return object, err
}

// lateFor is how long a store may take to notice that an upload has broken off.
const lateFor = time.Minute

// undoTime bounds what is done about an upload that failed, whoever has gone away.
const undoTime = 10 * time.Second

// undo removes what is left of an upload that failed. If that fails, too, Sweep does it.
func (s *Store) undo(ctx context.Context, m *Media, reserved bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	var err error
	if reserved && m.State == Arriving {
		part := m.Part()
		err = pg.InTx(ctx, s.shards.For(part), func(tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, sqlBack, part, m.Origin, m.Media, m.Object)
			if err != nil || tag.RowsAffected() == 0 {
				return err
			}
			_, err = tx.Exec(ctx, sqlGarbage, part, m.Object)
			return err
		})
		if err == nil {
			err = s.collect(ctx, part)
		}
	} else {
		err = s.Delete(ctx, m.ID)
	}
	if errors.Is(err, ErrNotFound) {
		// Somebody else has deleted it, and its object may have come after that.
		part := m.Part()
		if _, err = s.shards.For(part).Exec(ctx, sqlGarbage, part, m.Object); err == nil {
			err = s.collect(ctx, part)
		}
	}
	if err == nil && s.s3 != nil && m.State == Arriving {
		// What the store has got of it may become an object only now: somebody looks again.
		part := m.Part()
		_, err = s.shards.For(part).Exec(ctx, sqlLate, part, m.Object, s.now().Add(lateFor).UnixMilli())
	}
	if err != nil {
		s.log.WarnContext(ctx, "an upload that failed was not undone yet", "media", m.ID.String(), "err", err)
	}
}

// Has reports whether the store has an object.
func (s *Store) Has(ctx context.Context, object string) (bool, error) {
	return s.bucket.Exists(ctx, object)
}

// Reader reads a media from an offset; a negative length means to its end.
func (s *Store) Reader(ctx context.Context, object string, offset, length int64) (io.ReadCloser, error) {
	r, err := s.bucket.NewRangeReader(ctx, object, offset, length, nil)
	if notThere(err) {
		return nil, fmt.Errorf("%w: %w", ErrLost, err)
	}
	return r, err
}
