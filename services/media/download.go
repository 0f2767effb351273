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

const (
	// defaultWait is how long a request waits for an upload that was announced, if it does not say; longestWait what it may say.
	defaultWait, longestWait = 20 * time.Second, time.Minute
	// firstLook and longestLook are how long it waits before it looks again.
	firstLook, longestLook = 50 * time.Millisecond, time.Second
)

// errNotYet is what the specification has for an id whose upload has not come.
var errNotYet = merr.New(http.StatusGatewayTimeout, merr.CodeNotYetUploaded, "Media has not been uploaded yet")

// asked is which media a request wants.
type asked struct {
	mediastore.ID
	name string // that the path has
	wait time.Duration
	// redirect is whether the client follows one.
	redirect bool
	// remote is whether it may be fetched from another server.
	remote bool
	// as is the server of ours that asks for it elsewhere.
	as id.Server
	// old is whether the path asks nobody who they are.
	old bool
}

func (m *Media) ask(r *http.Request) (*asked, error) {
	a := &asked{as: m.servers.ForHost(r.Host), name: cleanName(httpx.Param(r, "fileName")), wait: defaultWait, remote: true}
	var err error
	if a.ID, err = mediastore.ParseID(httpx.Param(r, "serverName"), httpx.Param(r, "mediaId")); err != nil {
		return nil, merr.NotFound("Not a media ID").WithCause(err)
	}
	if i := session.From(r); i != nil {
		a.as = i.User.Server()
	}
	q := r.URL.Query()
	if text := q.Get("timeout_ms"); text != "" {
		ms, err := strconv.ParseInt(text, 10, 64)
		if err != nil || ms < 0 {
			return nil, merr.InvalidParam("timeout_ms must be a number of milliseconds")
		}
		a.wait = within(ms)
	}
	if a.redirect, err = flag(q.Get("allow_redirect"), false); err != nil {
		return nil, merr.InvalidParam("allow_redirect must be true or false")
	}
	if a.remote, err = flag(q.Get("allow_remote"), true); err != nil {
		return nil, merr.InvalidParam("allow_remote must be true or false")
	}
	return a, nil
}

// within is a time in milliseconds, bounded.
func within(ms int64) time.Duration {
	return time.Duration(min(max(ms, 0), longestWait.Milliseconds())) * time.Millisecond
}

func flag(text string, without bool) (bool, error) {
	switch text {
	case "":
		return without, nil
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, errors.New("not a boolean")
}

// download answers GET /_matrix/client/v1/media/download/{serverName}/{mediaId}[/{fileName}]. Its clients follow redirects.
func (m *Media) download(w http.ResponseWriter, r *http.Request) error {
	a, err := m.ask(r)
	if err != nil {
		return err
	}
	a.redirect, a.remote = true, true
	return m.answer(w, r, a)
}

// oldDownload answers the deprecated GET /_matrix/media/v3/download/{serverName}/{mediaId}[/{fileName}].
func (m *Media) oldDownload(w http.ResponseWriter, r *http.Request) error {
	a, err := m.ask(r)
	if err != nil {
		return err
	}
	a.old = true
	return m.answer(w, r, a)
}

func (m *Media) answer(w http.ResponseWriter, r *http.Request, a *asked) error {
	done, err := m.begin("download", m.downloads)
	if err != nil {
		return err
	}
	defer done()
	whole := r.Header.Get("Range") != "" || r.Method == http.MethodHead
	media, arriving, err := m.find(r.Context(), a, whole)
	if err != nil {
		return err
	}
	if arriving != nil {
		return m.serveArriving(w, r, arriving, a.name)
	}
	f := fileOf(media)
	if a.name != "" {
		f.name = a.name
	}
	return m.send(w, r, f, a.redirect)
}

// send answers with a file, or with where its client reads it from the store itself.
func (m *Media) send(w http.ResponseWriter, r *http.Request, f file, redirect bool) error {
	if redirect {
		link, err := m.link(r.Context(), f)
		if err != nil {
			return err
		}
		if link != "" {
			w.Header().Set("Location", link)
			w.Header().Set("Cache-Control", "private, no-store")
			w.WriteHeader(http.StatusTemporaryRedirect)
			return nil
		}
	}
	return m.serveFile(w, r, f, "download")
}

// begin takes a place for a download or an upload.
func (m *Media) begin(what string, places gate) (done func(), err error) {
	free, err := places.enter()
	if err != nil {
		return nil, err
	}
	leave := m.serving.enter()
	under := m.metrics.busy.WithLabelValues(what)
	under.Inc()
	return func() { under.Dec(); leave(); free() }, nil
}

// link is where a client or a server reads a file from the store itself; empty if it does not.
func (m *Media) link(ctx context.Context, f file) (string, error) {
	if m.cfg.Link == 0 {
		return "", nil
	}
	return m.store.Link(ctx, f.object, f.typ, disposition(f.typ, f.name), m.cfg.Link)
}

// find returns a media that may be served, and notes that it was used. One of another server may still arrive, unless it is
// asked for whole.
func (m *Media) find(ctx context.Context, a *asked, whole bool) (*mediastore.Media, *arriving, error) {
	if m.servers.IsLocal(a.Origin) {
		media, err := m.ready(ctx, a.ID, a.wait)
		if err != nil {
			return nil, nil, err
		}
		return media, nil, m.use(ctx, a, media)
	}
	media, err := m.store.Get(ctx, a.ID)
	switch {
	case err == nil && media.State == mediastore.Ready:
		return media, nil, m.use(ctx, a, media)
	case err != nil && !errors.Is(err, mediastore.ErrNotFound):
		return nil, nil, err
	case !a.remote || a.old && !time.Now().Before(m.freeze):
		return nil, nil, errNoMedia // what would be fetched now is newer than the freeze
	}
	arrives, err := m.arrive(ctx, a)
	if err != nil || !whole {
		return nil, arrives, err
	}
	if err := arrives.drain(); err != nil {
		return nil, nil, err
	}
	if media, err = m.lookUp(ctx, a.ID); err != nil {
		return nil, nil, err
	}
	return media, nil, m.use(ctx, a, media)
}

// use decides whether a media may be served, and notes that it is.
func (m *Media) use(ctx context.Context, a *asked, media *mediastore.Media) error {
	if media.QuarantinedBy != "" || a.old && !media.Created.Before(m.freeze) {
		return errNoMedia
	}
	if err := m.store.Used(ctx, media); err != nil {
		m.log.WarnContext(ctx, "the use of a media was not noted", "err", err)
	}
	return nil
}

// ready returns a media of ours that has been uploaded. It waits for one that was announced.
func (m *Media) ready(ctx context.Context, i mediastore.ID, wait time.Duration) (*mediastore.Media, error) {
	media, err := m.lookUp(ctx, i)
	if err != nil || media.State == mediastore.Ready {
		return media, err
	}
	leave, err := m.waits.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	end := time.NewTimer(wait)
	defer end.Stop()
	for pause := firstLook; ; pause = min(2*pause, longestLook) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-end.C:
			return nil, errNotYet
		case <-time.After(pause):
		}
		if media, err := m.lookUp(ctx, i); err != nil || media.State == mediastore.Ready {
			return media, err
		}
	}
}

// lookUp returns a media that is ready or may become so.
func (m *Media) lookUp(ctx context.Context, i mediastore.ID) (*mediastore.Media, error) {
	media, err := m.store.Get(ctx, i)
	if errors.Is(err, mediastore.ErrNotFound) {
		return nil, errNoMedia
	}
	if err == nil && media.State == mediastore.Reserved && media.Touched.Add(m.cfg.Store.Reserve).Before(time.Now()) {
		return nil, errNoMedia
	}
	return media, err
}
