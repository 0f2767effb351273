package media

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/mediastore"
	"hanse/pkg/merr"
	"hanse/pkg/session"
)

var (
	errGuest = merr.GuestAccessForbidden()
	// errTooLarge has the text of Synapse.
	errTooLarge  = merr.TooLarge("Upload request body is too large")
	errNoMedia   = merr.NotFound("Not found")
	errOverwrite = merr.New(http.StatusConflict, merr.CodeCannotOverwriteMedia, "Media ID already has content")
)

// config answers GET /_matrix/client/v1/media/config and its deprecated form.
func (m *Media) config(w http.ResponseWriter, r *http.Request) error {
	return httpx.OK(w, map[string]int64{"m.upload.size": m.limitOf(session.From(r)).File})
}

// limitOf returns what somebody may upload.
func (m *Media) limitOf(i *session.Identity) Limit {
	if l, ok := m.cfg.Limits[string(i.User)]; ok {
		return l
	}
	switch {
	case i.Appservice != nil:
		return m.cfg.Limits[kindAppservice]
	case i.Admin:
		return m.cfg.Limits[kindAdmin]
	}
	return m.cfg.Limits[kindUser]
}

// mayUpload returns how many bytes an upload of so many announced bytes (-1: unknown) may have. "Homeservers should limit the
// number and total size of media that can be uploaded by clients, returning a HTTP 403 error with the M_FORBIDDEN code."
func (m *Media) mayUpload(r *http.Request) (most int64, err error) {
	i := session.From(r)
	l := m.limitOf(i)
	if r.ContentLength > l.File {
		return 0, errTooLarge
	}
	if l.Bytes == 0 && l.Items == 0 {
		return l.File, nil
	}
	have, err := m.store.UserUsage(r.Context(), i.User)
	if err != nil {
		return 0, err
	}
	if l.Items > 0 && have.Items >= l.Items {
		return 0, merr.Forbidden("You have uploaded as many files as you may: " + strconv.FormatInt(l.Items, 10))
	}
	if l.Bytes == 0 {
		return l.File, nil
	}
	left := l.Bytes - have.Bytes
	if left < max(r.ContentLength, 1) {
		return 0, merr.Forbidden("You may store " + strconv.FormatInt(l.Bytes, 10) + " bytes of files")
	}
	return min(l.File, left), nil
}

// upload answers POST /_matrix/media/v3/upload.
func (m *Media) upload(w http.ResponseWriter, r *http.Request) error {
	media, err := m.take(r, mediastore.Upload{ID: mediastore.NewID(m.serverOf(r))})
	if err != nil {
		return err
	}
	return httpx.OK(w, map[string]string{"content_uri": media.ID.String()})
}

// serverOf is the server name of who makes the request.
func (m *Media) serverOf(r *http.Request) id.Server { return session.From(r).User.Server() }

// take stores the body of a request.
func (m *Media) take(r *http.Request, u mediastore.Upload) (*mediastore.Media, error) {
	if err := m.limit(r, "upload"); err != nil {
		return nil, err
	}
	done, err := m.begin("upload", m.uploads)
	if err != nil {
		return nil, err
	}
	defer done()
	if u.Max, err = m.mayUpload(r); err != nil {
		return nil, err
	}
	u.User, u.Length = session.From(r).User, r.ContentLength
	u.Type = cleanType(r.Header.Get("Content-Type"))
	u.Name = cleanName(r.URL.Query().Get("filename"))
	media, err := m.put(r.Context(), u, httpx.StreamBody(r))
	switch {
	case errors.Is(err, mediastore.ErrTooLarge):
		return nil, errTooLarge
	case errors.Is(err, mediastore.ErrExists):
		return nil, errOverwrite
	case errors.Is(err, mediastore.ErrNotFound):
		return nil, errNoMedia // it was deleted meanwhile
	case errors.Is(err, errRejected):
		return nil, errBadContent
	case err != nil:
		m.storeFailed(r.Context(), err)
		return nil, err
	}
	m.metrics.bytes.WithLabelValues("upload").Add(float64(media.Bytes))
	return media, nil
}

// storeFailed counts failures of the store.
func (m *Media) storeFailed(ctx context.Context, err error) {
	if _, ours := merr.As(err); !ours && ctx.Err() == nil {
		m.metrics.failures.WithLabelValues("store").Inc()
	}
}

// create answers POST /_matrix/media/v1/create: an id whose upload comes later.
func (m *Media) create(w http.ResponseWriter, r *http.Request) error {
	i := session.From(r)
	if err := m.limit(r, "upload"); err != nil {
		return err
	}
	pending, err := m.store.Reservations(r.Context(), i.User)
	if err != nil {
		return err
	}
	if pending >= int64(m.cfg.Pending) {
		return merr.LimitExceeded(time.Minute.Milliseconds())
	}
	media := mediastore.NewID(m.serverOf(r))
	expires, err := m.store.Reserve(r.Context(), media, i.User)
	if err != nil {
		return err
	}
	return httpx.OK(w, map[string]any{"content_uri": media.String(), "unused_expires_at": expires.UnixMilli()})
}

// uploadReserved answers PUT /_matrix/media/v3/upload/{serverName}/{mediaId}.
func (m *Media) uploadReserved(w http.ResponseWriter, r *http.Request) error {
	media, err := mediastore.ParseID(httpx.Param(r, "serverName"), httpx.Param(r, "mediaId"))
	if err != nil {
		return errNoMedia.WithCause(err)
	}
	known, err := m.store.Get(r.Context(), media)
	switch {
	case errors.Is(err, mediastore.ErrNotFound):
		return errNoMedia
	case err != nil:
		return err
	case known.User != session.From(r).User:
		return merr.Forbidden("Only the creator of the media ID can upload to it")
	case known.State != mediastore.Reserved:
		return errOverwrite
	case known.Touched.Add(m.cfg.Store.Reserve).Before(time.Now()):
		return merr.NotFound("Media ID has expired")
	}
	if _, err := m.take(r, mediastore.Upload{ID: media, Reserved: true}); err != nil {
		return err
	}
	return httpx.Empty(w)
}
