package media

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"

	"hanse/pkg/mediastore"
	"hanse/pkg/merr"
	"hanse/pkg/thumbnail"
)

// errNoThumbnail is what the specification has for content of which there is no thumbnail.
var errNoThumbnail = merr.New(http.StatusBadRequest, merr.CodeUnknown, "Cannot generate thumbnails for the requested content")

// maxSide is the largest width or height of a picture.
const maxSide = 32_000

// thumbnail answers GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}.
func (m *Media) thumbnail(w http.ResponseWriter, r *http.Request) error {
	return m.answerThumbnail(w, r, false)
}

// oldThumbnail answers the deprecated GET /_matrix/media/v3/thumbnail/{serverName}/{mediaId}.
func (m *Media) oldThumbnail(w http.ResponseWriter, r *http.Request) error {
	return m.answerThumbnail(w, r, true)
}

func (m *Media) answerThumbnail(w http.ResponseWriter, r *http.Request, old bool) error {
	a, err := m.ask(r)
	if err != nil {
		return err
	}
	if !old {
		a.redirect, a.remote = true, true
	}
	a.old = old
	spec, err := askSpec(r)
	if err != nil {
		return err
	}
	done, err := m.begin("download", m.downloads)
	if err != nil {
		return err
	}
	defer done()
	media, _, err := m.find(r.Context(), a, true)
	if err != nil {
		return err
	}
	f, err := m.thumbnailOf(r.Context(), media, spec)
	if err != nil {
		return err
	}
	return m.send(w, r, f, a.redirect)
}

func askSpec(r *http.Request) (thumbnail.Spec, error) {
	q := r.URL.Query()
	var size [2]int
	for i, name := range []string{"width", "height"} {
		if !q.Has(name) {
			return thumbnail.Spec{}, merr.MissingParam(name)
		}
		n, err := strconv.ParseInt(q.Get(name), 10, 32)
		if err != nil {
			return thumbnail.Spec{}, merr.InvalidParam(name + " must be a number")
		}
		size[i] = int(n)
	}
	animated, err := flag(q.Get("animated"), false)
	if err != nil {
		return thumbnail.Spec{}, merr.InvalidParam("animated must be true or false")
	}
	return specOf(size[0], size[1], q.Get("method"), animated)
}

func specOf(width, height int, method string, animated bool) (thumbnail.Spec, error) {
	s := thumbnail.Spec{Width: width, Height: height, Crop: method == "crop", Animated: animated}
	switch {
	case width < 1 || height < 1:
		return s, merr.InvalidParam("width and height must be positive")
	case method != "" && method != "crop" && method != "scale":
		return s, merr.InvalidParam("method must be crop or scale")
	}
	return s, nil
}

// thumbnailOf returns a thumbnail of a media, which is made if there is none yet. It is the media itself if that is not
// larger than what is asked for.
func (m *Media) thumbnailOf(ctx context.Context, media *mediastore.Media, spec thumbnail.Spec) (file, error) {
	spec, fits := spec.Snap()
	if !fits {
		info, err := m.inspect(ctx, media)
		if err != nil {
			return file{}, err
		}
		return itself(media, info.Type), nil
	}
	if f, err := m.kept(ctx, media, spec); err == nil || !errors.Is(err, mediastore.ErrNotFound) {
		return f, err
	}
	info, err := m.inspect(ctx, media)
	if err != nil {
		return file{}, err
	}
	if max(info.Width, info.Height) <= min(spec.Width, spec.Height) {
		return itself(media, info.Type), nil
	}
	// Those who ask at the same time wait for one. It does not end with the one who happened to be the first.
	made := m.drawings.DoChan(media.ID.String()+" "+spec.String(), func() (any, error) {
		ctx, cancel := context.WithTimeout(m.ended, m.cfg.Remote.Time)
		defer cancel()
		return m.make(ctx, media, info, spec)
	})
	select {
	case <-ctx.Done():
		return file{}, ctx.Err()
	case r := <-made:
		if r.Err != nil {
			return file{}, r.Err
		}
		if r.Val.(bool) {
			return itself(media, info.Type), nil
		}
	}
	f, err := m.kept(ctx, media, spec)
	if errors.Is(err, mediastore.ErrNotFound) {
		err = errNoMedia // deleted meanwhile
	}
	return f, err
}

func itself(media *mediastore.Media, typ string) file {
	f := fileOf(media)
	f.typ = typ // as its bytes say: the type that it was uploaded with may be a lie
	return f
}

// kept returns a thumbnail that is there.
func (m *Media) kept(ctx context.Context, media *mediastore.Media, spec thumbnail.Spec) (file, error) {
	t, err := m.store.Thumbnail(ctx, media.ID, spec.String())
	if err != nil {
		return file{}, err
	}
	if ok, err := m.store.Has(ctx, t.Object); err != nil || !ok {
		return file{}, errors.Join(err, mediastore.ErrNotFound) // it was not written to its end
	}
	name := "thumbnail.png"
	switch t.Type {
	case "image/jpeg":
		name = "thumbnail.jpg"
	case "image/gif":
		name = "thumbnail.gif"
	}
	return file{object: t.Object, typ: t.Type, name: name, bytes: t.Bytes, tag: t.Object, created: media.Created}, nil
}

// pictures bounds what is decoded.
func (m *Media) pictures() thumbnail.Limits {
	return thumbnail.Limits{Pixels: m.cfg.Thumbnails.Pixels, Side: maxSide}
}

// inspect reads from the beginning of a file what it is.
func (m *Media) inspect(ctx context.Context, media *mediastore.Media) (thumbnail.Info, error) {
	head, err := m.read(ctx, media, min(media.Bytes, thumbnail.HeaderBytes))
	if err != nil {
		return thumbnail.Info{}, err
	}
	info, err := thumbnail.Inspect(head, m.pictures())
	return info, pictureError(media, err)
}

func pictureError(media *mediastore.Media, err error) error {
	switch {
	case errors.Is(err, thumbnail.ErrTooLarge) && media.Remote:
		return merr.New(http.StatusBadGateway, merr.CodeTooLarge, "Content is too large to thumbnail")
	case errors.Is(err, thumbnail.ErrTooLarge):
		return merr.TooLarge("Content is too large to thumbnail")
	case errors.Is(err, thumbnail.ErrFormat):
		return errNoThumbnail
	}
	return err
}

func (m *Media) read(ctx context.Context, media *mediastore.Media, n int64) ([]byte, error) {
	r, err := m.store.Reader(ctx, media.Object, 0, n)
	if err != nil {
		m.storeFailed(ctx, err)
		return nil, err
	}
	defer r.Close()
	b := make([]byte, n)
	_, err = io.ReadFull(r, b)
	return b, err
}

// make makes a thumbnail and keeps it; true if the file is its own thumbnail. It waits for the memory that the picture takes.
func (m *Media) make(ctx context.Context, media *mediastore.Media, info thumbnail.Info, spec thumbnail.Spec) (itself bool, err error) {
	if media.Bytes > m.cfg.Thumbnails.Source {
		return false, pictureError(media, thumbnail.ErrTooLarge)
	}
	need := min(media.Bytes+info.Bytes, m.cfg.Thumbnails.Memory)
	if err := m.drawing.Acquire(ctx, need); err != nil {
		return false, err
	}
	defer m.drawing.Release(need)
	source, err := m.read(ctx, media, media.Bytes)
	if err != nil {
		return false, err
	}
	t, err := thumbnail.Make(source, spec, m.pictures())
	if err != nil {
		return false, pictureError(media, err)
	}
	if t == nil {
		return true, nil
	}
	err = m.store.KeepThumbnail(ctx, media.ID, spec.String(), t.Type, t.Content)
	if errors.Is(err, mediastore.ErrNotFound) {
		err = errNoMedia
	}
	return false, err
}
