package media

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"

	"google.golang.org/grpc"

	"hanse/pkg/mediastore"
	"hanse/pkg/merr"
	mediav1 "hanse/proto/media/v1"
)

// arriving is a media of another server that arrives, from whichever worker fetches it.
type arriving struct {
	head  *mediav1.Head
	first []byte
	recv  func() (*mediav1.Piece, error)
}

// arrive asks the worker that has the media's partition for it.
func (m *Media) arrive(ctx context.Context, a *asked) (*arriving, error) {
	if m.media == nil || m.fedout == nil {
		return nil, errNoMedia
	}
	stream, err := m.media.Fetch(ctx, &mediav1.FetchRequest{Origin: string(a.Origin), MediaId: a.Media, For: string(a.as),
		TimeoutMs: a.wait.Milliseconds()})
	if err != nil {
		return nil, err
	}
	first, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	if first.Head == nil {
		return nil, errors.New("a media arrives without its head")
	}
	return &arriving{first.Head, first.Chunk, stream.Recv}, nil
}

// each hands all bytes on, as they come.
func (a *arriving) each(take func([]byte) error) error {
	for b := a.first; ; {
		if err := take(b); err != nil {
			return err
		}
		piece, err := a.recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		b = piece.Chunk
	}
}

// drain waits until all is in the store.
func (a *arriving) drain() error { return a.each(func([]byte) error { return nil }) }

// serveArriving sends a media on while it arrives.
func (m *Media) serveArriving(w http.ResponseWriter, r *http.Request, a *arriving, name string) error {
	if name == "" {
		name = a.head.Name
	}
	headers(w.Header(), a.head.Type, name)
	if a.head.Bytes >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(a.head.Bytes, 10))
	}
	w.WriteHeader(http.StatusOK)
	err := a.each(func(b []byte) error {
		n, err := w.Write(b)
		m.metrics.bytes.WithLabelValues("download").Add(float64(n))
		return err
	})
	if err != nil {
		m.log.InfoContext(r.Context(), "a media of another server broke off", "err", err)
		panic(http.ErrAbortHandler) // nobody takes half a file for a whole one
	}
	return nil
}

// Fetch implements mediav1.MediaServer.
func (m *Media) Fetch(in *mediav1.FetchRequest, stream grpc.ServerStreamingServer[mediav1.Piece]) error {
	i, err := mediastore.ParseID(in.Origin, in.MediaId)
	if err != nil || m.servers.IsLocal(i.Origin) {
		return merr.InvalidParam("Not a media of another server")
	}
	as := m.servers.ForHost(in.For)
	defer m.serving.enter()()
	f, err := m.flightOf(i, as)
	if err != nil {
		return err
	}
	ctx := stream.Context()
	head, err := f.waitHead(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&mediav1.Piece{Head: head}); err != nil {
		return err
	}
	for offset := int64(0); ; {
		b, err := f.next(ctx, offset)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, errBehind):
			return m.sendObject(stream, f.media.Object, offset)
		case err != nil:
			return err
		}
		b = b[:min(len(b), pieceBytes)]
		if err := stream.Send(&mediav1.Piece{Chunk: b}); err != nil {
			return err
		}
		offset += int64(len(b))
	}
}

// sendObject sends an object of the store from an offset on.
func (m *Media) sendObject(stream grpc.ServerStreamingServer[mediav1.Piece], object string, offset int64) error {
	r, err := m.store.Reader(stream.Context(), object, offset, -1)
	if err != nil {
		m.storeFailed(stream.Context(), err)
		return err
	}
	defer r.Close()
	for {
		b := make([]byte, pieceBytes) // what was sent may still be read by a caller in this process
		n, err := io.ReadFull(r, b)
		if n > 0 {
			if err := stream.Send(&mediav1.Piece{Chunk: b[:n]}); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// Serve implements mediav1.MediaServer.
func (m *Media) Serve(in *mediav1.ServeRequest, stream grpc.ServerStreamingServer[mediav1.Piece]) error {
	ctx := stream.Context()
	i, err := mediastore.ParseID(in.Origin, in.MediaId)
	if err != nil || !m.servers.IsLocal(i.Origin) {
		return errNoMedia
	}
	done, err := m.begin("download", m.downloads)
	if err != nil {
		return err
	}
	defer done()
	a := &asked{ID: i, wait: within(in.TimeoutMs)}
	media, _, err := m.find(ctx, a, true)
	if err != nil {
		return err
	}
	f := fileOf(media)
	if t := in.Thumbnail; t != nil {
		spec, err := specOf(int(t.Width), int(t.Height), t.Method, t.Animated)
		if err != nil {
			return err
		}
		if f, err = m.thumbnailOf(ctx, media, spec); err != nil {
			return err
		}
	}
	head := headOf(f)
	if head.Location, err = m.link(ctx, f); err != nil {
		return err
	}
	if err := stream.Send(&mediav1.Piece{Head: head}); err != nil || head.Location != "" {
		return err
	}
	m.metrics.bytes.WithLabelValues("federation").Add(float64(f.bytes))
	return m.sendObject(stream, f.object, 0)
}
