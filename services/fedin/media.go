package fedin

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"hanse/pkg/merr"
	mediav1 "hanse/proto/media/v1"
)

// mediaDownload answers GET /_matrix/federation/v1/media/download/{mediaId} (server-server API, "Content Repository").
func (f *Fedin) mediaDownload(w http.ResponseWriter, q *request) error { return f.sendMedia(w, q, nil) }

// mediaThumbnail answers GET /_matrix/federation/v1/media/thumbnail/{mediaId}.
func (f *Fedin) mediaThumbnail(w http.ResponseWriter, q *request) error {
	query := q.URL.Query()
	t := &mediav1.Thumbnail{Method: query.Get("method"), Animated: query.Get("animated") == "true"}
	for name, into := range map[string]*int32{"width": &t.Width, "height": &t.Height} {
		n, err := strconv.ParseInt(query.Get(name), 10, 32)
		if err != nil {
			return merr.InvalidParam(name + " must be a number")
		}
		*into = int32(n)
	}
	return f.sendMedia(w, q, t)
}

// sendMedia answers with a media of ours, as it comes from a media worker.
func (f *Fedin) sendMedia(w http.ResponseWriter, q *request, t *mediav1.Thumbnail) error {
	if f.media == nil {
		return merr.Unrecognized(http.StatusNotFound)
	}
	in := &mediav1.ServeRequest{Origin: string(q.server), MediaId: q.param("mediaId"), TimeoutMs: 20_000, Thumbnail: t}
	if text := q.URL.Query().Get("timeout_ms"); text != "" {
		var err error
		if in.TimeoutMs, err = strconv.ParseInt(text, 10, 64); err != nil {
			return merr.InvalidParam("timeout_ms must be a number of milliseconds")
		}
	}
	stream, err := f.media.Serve(q.Context(), in)
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.Head == nil {
		return errors.New("a media came without its head")
	}
	return writeMedia(w, first.Head, stream.Recv)
}

// writeMedia writes the two parts of the answer: an object, which says nothing yet, and the bytes or where they are.
func writeMedia(w http.ResponseWriter, head *mediav1.Head, recv func() (*mediav1.Piece, error)) error {
	boundary := rand.Text()
	before := "--" + boundary + "\r\nContent-Type: application/json\r\n\r\n{}\r\n--" + boundary + "\r\n"
	after := "\r\n--" + boundary + "--\r\n"
	bytes := head.Bytes
	if head.Location != "" {
		before += "Location: " + head.Location + "\r\n\r\n"
		bytes = 0
	} else {
		before += fmt.Sprintf("Content-Type: %s\r\nContent-Disposition: %s\r\n\r\n", head.Type, head.Disposition)
	}
	w.Header().Set("Content-Type", "multipart/mixed; boundary="+boundary)
	w.Header().Set("Content-Length", strconv.FormatInt(int64(len(before)+len(after))+bytes, 10))
	w.WriteHeader(http.StatusOK)
	write := func(b []byte) {
		if _, err := w.Write(b); err != nil {
			panic(http.ErrAbortHandler) // the other server has gone
		}
	}
	write([]byte(before))
	for {
		piece, err := recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			panic(http.ErrAbortHandler) // nobody takes half a file for a whole one
		}
		write(piece.Chunk)
	}
	write([]byte(after))
	return nil
}
