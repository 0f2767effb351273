package media

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hanse/pkg/matrix/id"
	"hanse/pkg/mediastore"
	"hanse/pkg/merr"
	fedv1 "hanse/proto/federation/v1"
	mediav1 "hanse/proto/media/v1"
)

const (
	// headRoom is what a multipart answer may have besides the file.
	headRoom = 64 << 10
	// slowStart is how long a file may bring less than its rate.
	slowStart = 30 * time.Second
	// remoteWait is how long another server is told to wait for an upload that it knows of.
	remoteWait = 20 * time.Second
	pieceBytes = 64 << 10
)

var (
	errRemoteTooLarge = merr.New(http.StatusBadGateway, merr.CodeTooLarge, "The remote media is too large")
	errRemoteGone     = merr.New(http.StatusBadGateway, merr.CodeUnknown, "The remote server did not give the media")
	// errUnknownPath says that the server does not know the path.
	errUnknownPath = errors.New("unknown path")
)

// remoteFile is a file of another server that can be read.
type remoteFile struct {
	head  *mediav1.Head
	body  io.Reader
	close func()
}

// fetch fetches a media, stores it, and shows it to who waits meanwhile.
func (m *Media) fetch(ctx context.Context, f *flight, i mediastore.ID, as id.Server) (*mediastore.Media, error) {
	if media, err := m.store.Get(ctx, i); err == nil && media.State == mediastore.Ready {
		f.setHead(headOf(fileOf(media))) // it has come in the meantime
		return media, nil
	}
	src, err := m.open(ctx, i, as)
	if err != nil {
		return nil, err
	}
	defer src.close()
	most := m.cfg.Remote.File
	if src.head.Bytes > most {
		return nil, errRemoteTooLarge
	}
	if m.scanner == nil {
		f.setHead(src.head) // who waits reads along
	}
	up := mediastore.Upload{ID: i, Remote: true, Type: src.head.Type, Name: src.head.Name, Max: most}
	body := &seenBody{r: src.body, f: f, held: m.scanner != nil}
	media, err := m.put(ctx, up, body)
	switch {
	case errors.Is(err, mediastore.ErrTooLarge):
		return nil, errRemoteTooLarge
	case errors.Is(err, mediastore.ErrExists):
		// Another worker fetches it: the workers do not agree yet on who has its partition.
		media, err = m.ready(ctx, i, remoteWait)
	}
	if errors.Is(err, errRejected) {
		return nil, errNoMedia.WithCause(err)
	}
	if _, known := merr.As(err); known {
		return nil, err
	}
	if err != nil {
		if body.end == nil || errors.Is(body.end, io.EOF) {
			m.storeFailed(ctx, err)
			return nil, err
		}
		return nil, errRemoteGone.WithCause(err)
	}
	m.metrics.bytes.WithLabelValues("remote").Add(float64(media.Bytes))
	f.setHead(headOf(fileOf(media)))
	return media, nil
}

// seenBody shows what is read to who waits for it.
type seenBody struct {
	r io.Reader
	f *flight
	// held is whether nobody may see it before it is stored.
	held bool
	end  error
}

// Read implements io.Reader.
func (b *seenBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if n > 0 && !b.held {
		b.f.add(append([]byte(nil), p[:n]...))
	}
	if err != nil {
		b.end = err
	}
	return n, err
}

// paced ends a request whose answer comes too slowly, from its first byte on.
type paced struct {
	r      io.Reader
	cancel func()
	began  time.Time
	slow   time.Duration
	rate   int64
	n      int64
}

func (m *Media) paced(r io.Reader, cancel func()) io.Reader {
	return &paced{r: r, cancel: cancel, began: time.Now(), slow: m.slow, rate: m.cfg.Remote.Rate}
}

// Read implements io.Reader.
func (p *paced) Read(b []byte) (int, error) {
	allowed := p.slow + time.Duration(float64(p.n)/float64(p.rate)*float64(time.Second))
	timer := time.AfterFunc(time.Until(p.began.Add(allowed)), p.cancel)
	defer timer.Stop()
	n, err := p.r.Read(b)
	p.n += int64(n)
	return n, err
}

// open asks a media's server for it (server-server API, "Content Repository"): by the endpoint for servers, and if it does
// not know that by the deprecated one.
func (m *Media) open(ctx context.Context, i mediastore.ID, as id.Server) (*remoteFile, error) {
	wait := "timeout_ms=" + strconv.FormatInt(remoteWait.Milliseconds(), 10)
	src, err := m.openPath(ctx, i, as, "/_matrix/federation/v1/media/download/"+i.Media+"?"+wait, m.multipart)
	for _, version := range []string{"v3", "r0"} {
		if !errors.Is(err, errUnknownPath) {
			break
		}
		old := "/_matrix/media/" + version + "/download/" + url.PathEscape(string(i.Origin)) + "/" + i.Media + "?allow_remote=false&allow_redirect=true&" + wait
		src, err = m.openPath(ctx, i, as, old, m.plain)
	}
	if errors.Is(err, errUnknownPath) {
		return nil, errNoMedia
	}
	return src, err
}

// answer is the answer of another server, as fedout relays it.
type answer struct {
	status  int
	headers map[string]string
	body    io.Reader
	cancel  func() // ends the request
}

// relayed reads the body of an answer that fedout relays.
type relayed struct {
	recv func() (*fedv1.DoResponse, error)
	rest []byte
}

// Read implements io.Reader.
func (r *relayed) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		piece, err := r.recv()
		if err != nil {
			if status.Code(err) == codes.ResourceExhausted {
				err = mediastore.ErrTooLarge
			}
			return 0, err
		}
		r.rest = piece.Chunk
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (m *Media) openPath(ctx context.Context, i mediastore.ID, as id.Server, uri string, read func(context.Context, *answer) (*remoteFile, error)) (*remoteFile, error) {
	ctx, cancel := context.WithCancel(ctx)
	src, err := m.askServer(ctx, cancel, i, as, uri, read)
	if err != nil {
		cancel()
		return nil, err
	}
	also := src.close
	src.close = func() { also(); cancel() }
	return src, nil
}

func (m *Media) askServer(ctx context.Context, cancel func(), i mediastore.ID, as id.Server, uri string, read func(context.Context, *answer) (*remoteFile, error)) (*remoteFile, error) {
	stream, err := m.fedout.Do(ctx, &fedv1.DoRequest{Origin: string(as), Destination: string(i.Origin), Method: http.MethodGet, Uri: uri,
		TimeoutMs: m.cfg.Remote.Time.Milliseconds(), MaxBytes: m.cfg.Remote.File + headRoom, IgnoreBackoff: true, Sparing: true,
		Headers: []string{"Content-Type", "Content-Disposition", "Content-Length", "Location"}})
	if err != nil {
		return nil, errRemoteGone.WithCause(err)
	}
	first, err := stream.Recv()
	if status.Code(err) == codes.ResourceExhausted {
		return nil, errRemoteTooLarge
	}
	if err != nil {
		return nil, errRemoteGone.WithCause(err)
	}
	a := &answer{int(first.Status), first.Headers, m.paced(&relayed{stream.Recv, first.Chunk}, cancel), cancel}
	switch a.status {
	case http.StatusOK, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return read(ctx, a)
	}
	return nil, remoteError(a)
}

// remoteError is what an error of another server means.
func remoteError(a *answer) error {
	raw, err := io.ReadAll(io.LimitReader(a.body, 16<<10))
	if err != nil {
		return errRemoteGone.WithCause(err)
	}
	var e struct {
		Code string `json:"errcode"`
	}
	known := json.Unmarshal(raw, &e) == nil && e.Code != ""
	switch {
	case a.status == http.StatusNotFound && (!known || e.Code == merr.CodeUnrecognized), a.status == http.StatusMethodNotAllowed,
		a.status == http.StatusBadRequest && e.Code == merr.CodeUnrecognized:
		return errUnknownPath
	case e.Code == merr.CodeNotYetUploaded:
		return errNotYet
	case e.Code == merr.CodeTooLarge:
		return errRemoteTooLarge
	case a.status == http.StatusNotFound:
		return errNoMedia
	}
	return errRemoteGone.WithCause(fmt.Errorf("status %d %s", a.status, e.Code))
}

// plain reads an answer of the deprecated endpoint.
func (m *Media) plain(ctx context.Context, a *answer) (*remoteFile, error) {
	if to := a.headers["Location"]; a.status != http.StatusOK {
		return m.elsewhere(ctx, a.cancel, to)
	}
	return &remoteFile{headFrom(a.headers["Content-Type"], a.headers["Content-Disposition"], a.headers["Content-Length"]), a.body, func() {}}, nil
}

// multipart reads an answer of the endpoint for servers: JSON, then the bytes or where they are.
func (m *Media) multipart(ctx context.Context, a *answer) (*remoteFile, error) {
	typ, params, err := mime.ParseMediaType(a.headers["Content-Type"])
	if err != nil || typ != "multipart/mixed" || params["boundary"] == "" || a.status != http.StatusOK {
		return nil, errRemoteGone.WithCause(errors.New("no multipart answer"))
	}
	parts := multipart.NewReader(a.body, params["boundary"])
	meta, err := parts.NextRawPart()
	if err == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(meta, headRoom))
	}
	if err != nil {
		return nil, errRemoteGone.WithCause(err)
	}
	part, err := parts.NextRawPart()
	if err != nil {
		return nil, errRemoteGone.WithCause(err)
	}
	if to := part.Header.Get("Location"); to != "" {
		return m.elsewhere(ctx, a.cancel, to)
	}
	return &remoteFile{headFrom(part.Header.Get("Content-Type"), part.Header.Get("Content-Disposition"), ""), part, func() {}}, nil
}

// elsewhere reads a file from where another server says that it is. The address is anybody's: the guard decides.
func (m *Media) elsewhere(ctx context.Context, cancel func(), to string) (*remoteFile, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, to, http.NoBody)
	if err != nil || !isWeb(r) {
		return nil, errRemoteGone.WithCause(fmt.Errorf("the media is at no address of the web: %.100q", to))
	}
	r.Header.Set("User-Agent", userAgent)
	resp, err := m.web.Do(r) //nolint:bodyclose // whoever reads the file closes it
	if err != nil {
		return nil, errRemoteGone.WithCause(err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, errRemoteGone.WithCause(fmt.Errorf("status %d", resp.StatusCode))
	}
	h := headFrom(resp.Header.Get("Content-Type"), resp.Header.Get("Content-Disposition"), strconv.FormatInt(resp.ContentLength, 10))
	return &remoteFile{h, m.paced(resp.Body, cancel), func() { resp.Body.Close() }}, nil
}

// userAgent is how we introduce ourselves to the web.
const userAgent = "Hanse (Matrix homeserver)"

func headFrom(contentType, disposition, length string) *mediav1.Head {
	n, err := strconv.ParseInt(length, 10, 64)
	if err != nil || n < 0 {
		n = -1
	}
	return &mediav1.Head{Type: cleanType(contentType), Name: nameOf(disposition), Bytes: n}
}

func headOf(f file) *mediav1.Head {
	return &mediav1.Head{Type: f.typ, Name: f.name, Bytes: f.bytes, Disposition: disposition(f.typ, f.name)}
}
