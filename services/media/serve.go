package media

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"hanse/pkg/mediastore"
)

// policy is what the specification recommends (client-server API, "Content repository"), and more: nothing of what users
// uploaded may run.
const policy = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; object-src 'self';"

// file is something in the store that is served.
type file struct {
	object, typ, name string
	bytes             int64
	tag               string
	created           time.Time
}

func fileOf(m *mediastore.Media) file {
	return file{object: m.Object, typ: m.Type, name: m.Name, bytes: m.Bytes, tag: hex.EncodeToString(m.Hash), created: m.Created}
}

// headers are those of every file.
func headers(h http.Header, contentType, name string) {
	if contentType == "" {
		contentType = anyType
	}
	h.Set("Content-Type", contentType)
	h.Set("Content-Disposition", disposition(contentType, name))
	h.Set("Content-Security-Policy", policy)
	h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Robots-Tag", "noindex, nofollow, noarchive, noimageindex")
	h.Set("Cache-Control", "private, max-age=86400, immutable")
}

// maxRanges bounds the ranges of one request: each is a read of the store.
const maxRanges = 8

// serveFile answers with a file, or the ranges of it that are asked for.
func (m *Media) serveFile(w http.ResponseWriter, r *http.Request, f file, way string) error {
	src := &source{ctx: r.Context(), store: m.store, object: f.object, size: f.bytes}
	defer src.close()
	if strings.Count(r.Header.Get("Range"), ",") >= maxRanges {
		r.Header.Del("Range")
	}
	// What the store has lost must not be a 200.
	if r.Method != http.MethodHead && f.bytes > 0 && r.Header.Get("Range") == "" {
		if err := src.open(); err != nil {
			m.storeFailed(r.Context(), err)
			return err
		}
	}
	headers(w.Header(), f.typ, f.name)
	w.Header().Set("ETag", `"`+f.tag+`"`)
	http.ServeContent(w, r, "", f.created, src)
	m.metrics.bytes.WithLabelValues(way).Add(float64(src.read))
	if src.err != nil {
		m.storeFailed(r.Context(), src.err)
		m.log.WarnContext(r.Context(), "a download broke off", "err", src.err)
		panic(http.ErrAbortHandler) // nobody takes half a file for a whole one
	}
	return nil
}

// source reads an object from wherever ServeContent has sought to. The store is asked when the first byte is read.
type source struct {
	ctx    context.Context
	store  *mediastore.Store
	object string
	size   int64

	at   int64
	r    io.ReadCloser
	read int64
	err  error
}

// Seek implements io.Seeker.
func (s *source) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += s.at
	case io.SeekEnd:
		offset += s.size
	}
	if offset < 0 || offset > s.size {
		return 0, errors.New("seek: outside of the file")
	}
	if offset != s.at {
		s.close()
		s.at = offset
	}
	return s.at, nil
}

func (s *source) open() (err error) {
	s.r, err = s.store.Reader(s.ctx, s.object, s.at, -1)
	return err
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	if s.at >= s.size {
		return 0, io.EOF
	}
	if s.r == nil {
		if s.err = s.open(); s.err != nil {
			return 0, s.err
		}
	}
	n, err := s.r.Read(p)
	s.at += int64(n)
	s.read += int64(n)
	if err == io.EOF && s.at < s.size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

func (s *source) close() {
	if s.r != nil {
		_ = s.r.Close() // it was read
		s.r = nil
	}
}
