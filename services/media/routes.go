package media

import (
	"net/http"

	"hanse/pkg/httpx"
	"hanse/pkg/session"
)

// Routes registers the endpoints of the role that clients use (client-server API, "Content repository"). Requests take as
// long as their files: they are bounded by the role's own limits, as long polls are.
func (m *Media) Routes(rt *httpx.Router) {
	old := rt.Group("/_matrix/media/v3", "/_matrix/media/r0", "/_matrix/media/v1")
	authOld := old.With(m.sessions.Required, m.perUser)
	write := authOld.With(noGuests)
	write.Handle("POST /upload", m.upload, httpx.LongPoll())
	write.Handle("PUT /upload/{serverName}/{mediaId}", m.uploadReserved, httpx.LongPoll())
	rt.Group("/_matrix/media/v1").With(m.sessions.Required, m.perUser, noGuests).Handle("POST /create", m.create)
	authOld.Handle("GET /config", m.config)

	auth := rt.Group("/_matrix/client/v1/media").With(m.sessions.Required, m.perUser)
	auth.Handle("GET /config", m.config)
	auth.Handle("GET /thumbnail/{serverName}/{mediaId}", m.thumbnail, httpx.LongPoll())
	auth.Handle("GET /download/{serverName}/{mediaId}", m.download, httpx.LongPoll())
	auth.Handle("GET /download/{serverName}/{mediaId}/{fileName}", m.download, httpx.LongPoll())
	if m.cfg.Previews.Enabled {
		auth.With(noGuests).Handle("GET /preview_url", m.previewURL, httpx.LongPoll())
		write.Handle("GET /preview_url", m.previewURL, httpx.LongPoll())
	}
	m.adminRoutes(rt)
	m.OldRoutes(rt)
}

// OldRoutes registers the deprecated endpoints that ask nobody who they are. Other servers use them, too.
func (m *Media) OldRoutes(rt *httpx.Router) {
	if !m.cfg.Old.Enabled {
		return
	}
	old := rt.Group("/_matrix/media/v3", "/_matrix/media/r0", "/_matrix/media/v1").With(m.perUser)
	old.Handle("GET /thumbnail/{serverName}/{mediaId}", m.oldThumbnail, httpx.LongPoll())
	old.Handle("GET /download/{serverName}/{mediaId}", m.oldDownload, httpx.LongPoll())
	old.Handle("GET /download/{serverName}/{mediaId}/{fileName}", m.oldDownload, httpx.LongPoll())
}

// noGuests refuses guests: they may read only.
func noGuests(next httpx.Handler) httpx.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if session.From(r).Guest {
			return errGuest
		}
		return next(w, r)
	}
}

// perUser applies the limit of requests of any kind.
func (m *Media) perUser(next httpx.Handler) httpx.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := m.limit(r, "request"); err != nil {
			return err
		}
		return next(w, r)
	}
}
