package fedin

import (
	"bytes"
	"context"
	"io"
	"mime"
	"mime/multipart"
	"net/http/httptest"
	"testing"

	"google.golang.org/grpc"

	mediav1 "hanse/proto/media/v1"
)

// mediaWorker answers as a media worker does.
type mediaWorker struct {
	mediav1.MediaClient
	asked *mediav1.ServeRequest
	given []*mediav1.Piece
}

type pieces struct {
	grpc.ServerStreamingClient[mediav1.Piece]
	left []*mediav1.Piece
}

func (m *mediaWorker) Serve(_ context.Context, in *mediav1.ServeRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[mediav1.Piece], error) {
	m.asked = in
	return &pieces{left: m.given}, nil
}

// Recv implements grpc.ServerStreamingClient.
func (p *pieces) Recv() (*mediav1.Piece, error) {
	if len(p.left) == 0 {
		return nil, io.EOF
	}
	first := p.left[0]
	p.left = p.left[1:]
	return first, nil
}

// Server-server API, "Content Repository": an answer has two parts, an object and the bytes or where they are.
func TestMediaForServers(t *testing.T) {
	w := newWorker(t)
	m := &mediaWorker{given: []*mediav1.Piece{{Head: &mediav1.Head{Type: "image/png", Disposition: "inline; filename=a.png", Bytes: 8}}, {Chunk: []byte("the ")}, {Chunk: []byte("file")}}}
	w.fedin.media = m
	s := w.server("remote.example")
	read := func(r *reply, contentType string) (header map[string][]string, body string) {
		_, params, err := mime.ParseMediaType(contentType)
		must(t, err)
		parts := multipart.NewReader(bytes.NewReader(r.raw), params["boundary"])
		meta, err := parts.NextPart()
		must(t, err)
		if b, err := io.ReadAll(meta); err != nil || string(b) != "{}" || meta.Header.Get("Content-Type") != "application/json" {
			t.Errorf("first part %q %v %v", b, meta.Header, err)
		}
		file, err := parts.NextPart()
		must(t, err)
		b, err := io.ReadAll(file)
		must(t, err)
		if _, err := parts.NextPart(); err != io.EOF {
			t.Errorf("a third part: %v", err)
		}
		return file.Header, string(b)
	}
	rec := httptest.NewRecorder()
	must(t, writeMedia(rec, m.given[0].Head, (&pieces{left: m.given[1:]}).Recv))
	header, body := read(&reply{raw: rec.Body.Bytes()}, rec.Header().Get("Content-Type"))
	if body != "the file" || header["Content-Type"][0] != "image/png" || header["Content-Disposition"][0] != "inline; filename=a.png" {
		t.Errorf("%v %q", header, body)
	}
	rec = httptest.NewRecorder()
	must(t, writeMedia(rec, &mediav1.Head{Location: "https://cdn.example/x"}, (&pieces{}).Recv))
	if header, body = read(&reply{raw: rec.Body.Bytes()}, rec.Header().Get("Content-Type")); body != "" || header["Location"][0] != "https://cdn.example/x" {
		t.Errorf("%v %q", header, body)
	}
	s.do("GET", "/_matrix/federation/v1/media/download/abc?timeout_ms=5", nil).ok()
	if m.asked.Origin != "a.example" || m.asked.MediaId != "abc" || m.asked.TimeoutMs != 5 || m.asked.Thumbnail != nil {
		t.Errorf("asked %v", m.asked)
	}
	s.do("GET", "/_matrix/federation/v1/media/thumbnail/abc?width=32&height=64&method=crop&animated=true", nil).ok()
	if th := m.asked.Thumbnail; th.Width != 32 || th.Height != 64 || th.Method != "crop" || !th.Animated {
		t.Errorf("asked %v", m.asked)
	}
	s.do("GET", "/_matrix/federation/v1/media/thumbnail/abc?width=x&height=64", nil).fails(400, "M_INVALID_PARAM")
	w.do("GET", "/_matrix/federation/v1/media/download/abc", "", nil).fails(401, "M_UNAUTHORIZED")
}
