package media

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"hanse/pkg/httpx"
	"hanse/pkg/mediastore"
	"hanse/pkg/merr"
	"hanse/pkg/preview"
	"hanse/pkg/session"
	"hanse/pkg/thumbnail"
	mediav1 "hanse/proto/media/v1"
)

// Previews is what is fetched from the web for clients.
type Previews struct {
	Enabled bool          `yaml:"enabled" doc:"Fetch pages of the web that users ask for a preview of. Off: the endpoint is not there."`
	Deny    []string      `yaml:"deny" doc:"Hosts of which there are no previews, as *.example.org. Private addresses are refused anyway; see federation.allow and deny."`
	Allow   []string      `yaml:"allow" doc:"If it is not empty: the only hosts of which there are previews."`
	Page    int64         `yaml:"page" doc:"Bytes of a page that are read."`
	Image   int64         `yaml:"image" doc:"Bytes of a picture that is kept for a preview."`
	Time    time.Duration `yaml:"time" doc:"How long a preview may take."`
	Keep    time.Duration `yaml:"keep" doc:"How long the pictures of previews are kept."`
	Cache   int64         `yaml:"cache" doc:"Bytes of previews that a worker remembers, for an hour."`
}

// Validate reports what is wrong with the configuration.
func (p *Previews) Validate() error {
	var errs []error
	for _, pattern := range append(append([]string(nil), p.Deny...), p.Allow...) {
		if _, err := path.Match(pattern, "x"); err != nil {
			errs = append(errs, errors.New("deny and allow: "+pattern+" is no pattern"))
		}
	}
	if p.Page < 1<<10 || p.Image < 1 || p.Time < time.Second || p.Keep < 2*time.Hour || p.Cache < 1<<20 {
		errs = append(errs, errors.New("page: at least 1 KiB; keep: at least two hours; cache: at least 1 MiB; the others positive"))
	}
	return errors.Join(errs...)
}

const (
	// previewed is how long a preview is remembered, failed how long one that failed.
	previewed, previewFailed = time.Hour, time.Minute
	// maxURL bounds what clients ask for.
	maxURL = 4096
	// embedBytes bounds an oEmbed answer.
	embedBytes = 256 << 10
)

var errNoPreview = merr.New(http.StatusBadGateway, merr.CodeUnknown, "There is no preview of this address")

// previewURL answers GET /_matrix/client/v1/media/preview_url. Requests for one address go to one worker, which remembers
// the answer.
func (m *Media) previewURL(w http.ResponseWriter, r *http.Request) error {
	text := r.URL.Query().Get("url")
	if text == "" {
		return merr.MissingParam("url")
	}
	u, err := m.mayPreview(text)
	if err != nil {
		return err
	}
	if err := m.limit(r, "preview"); err != nil {
		return err
	}
	answer, err := m.media.Preview(r.Context(), &mediav1.PreviewRequest{Url: u.String(), For: string(session.From(r).User.Server())})
	if err != nil {
		return err
	}
	return httpx.Raw(w, http.StatusOK, answer.Json)
}

// mayPreview reads an address that a client has sent.
func (m *Media) mayPreview(text string) (*url.URL, error) {
	if len(text) > maxURL {
		return nil, merr.InvalidParam("The address is too long")
	}
	u, err := url.Parse(text)
	if err != nil || !isWebURL(u) {
		return nil, merr.InvalidParam("Only addresses of the web have previews").WithCause(err)
	}
	u.Fragment = ""
	if !m.hostAllowed(u.Hostname()) {
		return nil, merr.Forbidden("There are no previews of this host")
	}
	return u, nil
}

func (m *Media) hostAllowed(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	matches := func(patterns []string) bool {
		for _, p := range patterns {
			if ok, err := path.Match(strings.ToLower(p), host); err == nil && ok {
				return true
			}
		}
		return false
	}
	return !matches(m.cfg.Previews.Deny) && (len(m.cfg.Previews.Allow) == 0 || matches(m.cfg.Previews.Allow))
}

// cachedPreview is an answer, or that there is none.
type cachedPreview struct {
	json  []byte
	until time.Time
}

// Preview implements mediav1.MediaServer.
func (m *Media) Preview(ctx context.Context, in *mediav1.PreviewRequest) (*mediav1.PreviewResponse, error) {
	if !m.cfg.Previews.Enabled {
		return nil, merr.Unrecognized(http.StatusNotFound)
	}
	u, err := m.mayPreview(in.Url)
	if err != nil {
		return nil, err
	}
	key := in.For + " " + in.Url
	if c, ok := m.previews.Get(key); ok && time.Now().Before(c.until) {
		return previewAnswer(c)
	}
	made := m.drawings.DoChan("preview "+key, func() (any, error) {
		// It serves all who wait for it, also if the first one gives up.
		ctx, cancel := context.WithTimeout(m.ended, m.cfg.Previews.Time)
		defer cancel()
		c := cachedPreview{until: time.Now().Add(previewed)}
		og, err := m.lookAt(ctx, u, in.For)
		if err != nil {
			m.log.DebugContext(ctx, "no preview", "err", err)
			c.until = time.Now().Add(previewFailed)
		} else if c.json, err = json.Marshal(og); err != nil {
			return c, err
		}
		m.previews.Add(key, c)
		return c, nil
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-made:
		if r.Err != nil {
			return nil, r.Err
		}
		return previewAnswer(r.Val.(cachedPreview))
	}
}

func previewAnswer(c cachedPreview) (*mediav1.PreviewResponse, error) {
	if c.json == nil {
		return nil, errNoPreview
	}
	return &mediav1.PreviewResponse{Json: c.json}, nil
}

// lookAt fetches an address and says what is there.
func (m *Media) lookAt(ctx context.Context, u *url.URL, server string) (map[string]any, error) {
	resp, err := m.get(ctx, u, "text/html, application/xhtml+xml, image/*, text/plain")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	at := resp.Request.URL // behind its redirects
	contentType := resp.Header.Get("Content-Type")
	typ, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		typ = "text/html"
	}
	body := io.LimitReader(resp.Body, m.cfg.Previews.Page)
	var p *preview.Preview
	switch {
	case strings.HasPrefix(typ, "image/"):
		og := map[string]any{"og:title": path.Base(at.Path)}
		return og, m.addPicture(ctx, og, resp.Body, path.Base(at.Path), server)
	case typ == "text/html", typ == "application/xhtml+xml":
		p, err = preview.Page(body, contentType, at)
	case strings.HasPrefix(typ, "text/"):
		p, err = preview.Text(body, contentType)
	default:
		return map[string]any{}, nil
	}
	if err != nil {
		return nil, err
	}
	m.addEmbed(ctx, p)
	og := make(map[string]any, len(p.OG)+5)
	for name, value := range p.OG {
		og[name] = value
	}
	m.addImage(ctx, og, p.Image, server)
	return og, nil
}

// get fetches an address of the web.
func (m *Media) get(ctx context.Context, u *url.URL, accept string) (*http.Response, error) {
	if !isWebURL(u) || !m.hostAllowed(u.Hostname()) {
		return nil, errNoPreview
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	r.Header.Set("User-Agent", userAgent)
	r.Header.Set("Accept", accept)
	r.Header.Set("Accept-Language", "en")
	resp, err := m.web.Do(r)
	if err == nil && resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		err = errors.New("status " + resp.Status)
	}
	return resp, err
}

// addEmbed reads the oEmbed answer of a page that lacks a title or a picture.
func (m *Media) addEmbed(ctx context.Context, p *preview.Preview) {
	if p.Embed == "" || p.OG["og:title"] != "" && p.Image != "" {
		return
	}
	u, err := url.Parse(p.Embed)
	if err != nil {
		return
	}
	resp, err := m.get(ctx, u, "application/json")
	if err != nil {
		return // the page itself has said what there is
	}
	defer resp.Body.Close()
	if raw, err := io.ReadAll(io.LimitReader(resp.Body, embedBytes)); err == nil {
		p.AddEmbed(raw, resp.Request.URL)
	}
}

// addImage keeps the picture of a page. A page whose picture cannot be had is shown without.
func (m *Media) addImage(ctx context.Context, og map[string]any, ref, server string) {
	u, err := url.Parse(ref)
	if ref == "" || err != nil {
		return
	}
	resp, err := m.get(ctx, u, "image/*")
	if err != nil {
		m.log.DebugContext(ctx, "the picture of a page was not fetched", "err", err)
		return
	}
	defer resp.Body.Close()
	if err := m.addPicture(ctx, og, resp.Body, "", server); err != nil {
		m.log.DebugContext(ctx, "the picture of a page was not kept", "err", err)
	}
}

// addPicture keeps a picture as a media of nobody.
func (m *Media) addPicture(ctx context.Context, og map[string]any, body io.Reader, name, server string) error {
	head, err := io.ReadAll(io.LimitReader(body, min(thumbnail.HeaderBytes, m.cfg.Previews.Image)))
	if err != nil {
		return err
	}
	about, err := thumbnail.Inspect(head, m.pictures())
	if err != nil {
		return err
	}
	up := mediastore.Upload{ID: mediastore.NewID(m.servers.ForHost(server)), Type: about.Type, Name: cleanName(name), Max: m.cfg.Previews.Image}
	kept, err := m.put(ctx, up, io.MultiReader(bytes.NewReader(head), body))
	if err != nil {
		return err
	}
	og["og:image"] = kept.ID.String()
	preview.Size(og, about.Width, about.Height, about.Type, kept.Bytes)
	return nil
}
