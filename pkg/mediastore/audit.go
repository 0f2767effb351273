package mediastore

import (
	"context"
	"errors"
	"hash/maphash"
	"io"
	"time"

	"gocloud.dev/blob"
)

// Audit is what a comparison of the store with the rows has found.
type Audit struct {
	// Objects and Bytes are what the store has; Rows and RowBytes what the rows say that it has.
	Objects, Bytes, Rows, RowBytes int64
	// Unknown are objects without a row, Lost rows without an object, Wrong those whose size is another.
	Unknown, Lost, Wrong []string
	// Repaired is how many objects and rows were removed.
	Repaired int
}

// Shown bounds the lists of an Audit.
const Shown = 1000

const (
	sqlObjects = `
SELECT object, bytes, hash, '', '' FROM media_blob WHERE part = $1
UNION ALL SELECT object, bytes, NULL, origin, media_id FROM media_thumbnail WHERE part = $1
UNION ALL SELECT object, -1, NULL, '', '' FROM media_garbage WHERE part = $1
UNION ALL SELECT object, -1, NULL, origin, media_id FROM media WHERE part = $1 AND state IN (1, 2) AND object <> ''`
	sqlUsersOf   = `SELECT origin, media_id FROM media_blob_ref WHERE part = $1 AND hash = $2`
	sqlDropThumb = `DELETE FROM media_thumbnail WHERE part = $1 AND object = $2`
	sqlRefs      = `SELECT hash, origin, media_id FROM media_blob_ref WHERE part = $1`
)

// Audit compares the store with the rows. With repair it deletes objects that no row names and that are older than young,
// and media and thumbnails whose bytes the store has lost. It holds 16 bytes in memory for each object.
func (s *Store) Audit(ctx context.Context, repair bool, young time.Duration) (*Audit, error) {
	a, seed := new(Audit), maphash.MakeSeed()
	if repair {
		if _, err := s.sweep(ctx, s.allParts(), max(young, s.cfg.Stale), 0); err != nil {
			return nil, err
		}
	}
	// The store is read first: what comes meanwhile has a row by the time that the rows are read.
	began := s.now()
	have := make(map[uint64]int64)
	for it := s.bucket.List(nil); ; {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		a.Objects++
		a.Bytes += o.Size
		have[maphash.String(seed, o.Key)] = o.Size
	}
	if err := s.step("listed"); err != nil {
		return nil, err
	}
	named := make(map[uint64]struct{}, len(have))
	for _, part := range s.allParts() {
		if err := s.auditRows(ctx, a, part, seed, have, named, repair); err != nil {
			return nil, err
		}
		if err := s.auditRefs(ctx, part, repair, a); err != nil {
			return nil, err
		}
	}
	return a, s.auditUnknown(ctx, a, seed, named, repair, began.Add(-young))
}

type row struct {
	object        string
	bytes         int64
	hash          []byte
	origin, media string
}

// auditRows looks whether the store has what the rows of a partition name.
func (s *Store) auditRows(ctx context.Context, a *Audit, part uint32, seed maphash.Seed, have map[uint64]int64, named map[uint64]struct{}, repair bool) error {
	rows, err := s.shards.For(part).Query(ctx, sqlObjects, part)
	if err != nil {
		return err
	}
	defer rows.Close()
	var lost []row
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.object, &r.bytes, &r.hash, &r.origin, &r.media); err != nil {
			return err
		}
		key := maphash.String(seed, r.object)
		named[key] = struct{}{}
		if r.bytes < 0 {
			continue // it may be there or not
		}
		a.Rows++
		a.RowBytes += r.bytes
		size, ok := have[key]
		switch {
		case !ok:
			lost = append(lost, r)
		case size != r.bytes && len(a.Wrong) < Shown:
			a.Wrong = append(a.Wrong, r.object)
		}
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return err
	}
	for _, r := range lost {
		// It may have come after the store was read.
		if ok, err := s.bucket.Exists(ctx, r.object); err != nil {
			return err
		} else if ok {
			continue
		}
		if len(a.Lost) < Shown {
			a.Lost = append(a.Lost, r.object)
		}
		if repair {
			if err := s.forgetLost(ctx, part, r); err != nil {
				return err
			}
			a.Repaired++
		}
	}
	return nil
}

// forgetLost removes the rows that name an object that there is not.
func (s *Store) forgetLost(ctx context.Context, part uint32, r row) error {
	if r.hash == nil {
		_, err := s.shards.For(part).Exec(ctx, sqlDropThumb, part, r.object) // it is made again when somebody asks for it
		return err
	}
	users, err := s.usersOf(ctx, part, r.hash)
	if err != nil {
		return err
	}
	for _, i := range users {
		if err := s.Delete(ctx, i); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	return nil
}

func (s *Store) usersOf(ctx context.Context, part uint32, hash []byte) (ids []ID, err error) {
	rows, err := s.shards.For(part).Query(ctx, sqlUsersOf, part, hash)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var i ID
		if err := rows.Scan(&i.Origin, &i.Media); err != nil {
			return nil, err
		}
		ids = append(ids, i)
	}
	return ids, rows.Err()
}

// auditRefs takes back uses of objects by media that are not there: of a worker that was gone for longer than it is waited
// for, and ended then.
func (s *Store) auditRefs(ctx context.Context, part uint32, repair bool, a *Audit) error {
	if !repair {
		return nil
	}
	rows, err := s.shards.For(part).Query(ctx, sqlRefs, part)
	if err != nil {
		return err
	}
	defer rows.Close()
	var refs []*Media
	for rows.Next() {
		m := new(Media)
		if err := rows.Scan(&m.Hash, &m.Origin, &m.Media); err != nil {
			return err
		}
		refs = append(refs, m)
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return err
	}
	for _, ref := range refs {
		m, err := scan(s.shards.For(ref.Part()).QueryRow(ctx, sqlGet, ref.Part(), ref.Origin, ref.Media))
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if err == nil && string(m.Hash) == string(ref.Hash) {
			continue
		}
		if err := s.unshare(ctx, ref); err != nil {
			return err
		}
		if err := s.collect(ctx, part); err != nil {
			return err
		}
		a.Repaired++
	}
	return nil
}

// auditUnknown finds objects that no row names.
func (s *Store) auditUnknown(ctx context.Context, a *Audit, seed maphash.Seed, named map[uint64]struct{}, repair bool, before time.Time) error {
	for it := s.bucket.List(&blob.ListOptions{}); ; {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, ok := named[maphash.String(seed, o.Key)]; ok || o.ModTime.After(before) {
			continue
		}
		if len(a.Unknown) < Shown {
			a.Unknown = append(a.Unknown, o.Key)
		}
		if repair {
			if err := s.bucket.Delete(ctx, o.Key); err != nil && !notThere(err) {
				return err
			}
			a.Repaired++
		}
	}
}
