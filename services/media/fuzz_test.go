package media

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"unicode/utf8"

	"hanse/pkg/mediastore"
	fedv1 "hanse/proto/federation/v1"
)

type noWeb struct{}

var errNoWeb = errors.New("there is no web here")

func (noWeb) RoundTrip(*http.Request) (*http.Response, error) { return nil, errNoWeb }

// What another server answers is read with bounds, and what comes of its headers can be sent in ours.
func FuzzRemoteAnswer(f *testing.F) {
	f.Add("multipart/mixed; boundary=xyz", "", []byte("--xyz\r\nContent-Type: application/json\r\n\r\n{}\r\n--xyz\r\nContent-Type: image/png\r\nContent-Disposition: inline; filename=a.png\r\n\r\nbytes\r\n--xyz--\r\n"))
	f.Add("multipart/mixed; boundary=xyz", "", []byte("--xyz\r\n\r\n{}\r\n--xyz\r\nLocation: http://127.0.0.1/\r\n\r\n\r\n--xyz--\r\n"))
	f.Add("multipart/mixed; boundary=\"\r\n\"", "x", []byte("--\r\n"))
	f.Add("image/png", "attachment; filename*=utf-8''%e2%80%ae", []byte(`{"errcode":"M_NOT_FOUND"}`))
	m := &Media{web: &http.Client{Transport: noWeb{}}}
	f.Fuzz(func(t *testing.T, contentType, disposition string, body []byte) {
		answerOf := func(status int) *answer {
			sent := false
			return &answer{status: status, headers: map[string]string{"Content-Type": contentType, "Content-Disposition": disposition, "Content-Length": disposition, "Location": disposition},
				body: &relayed{recv: func() (*fedv1.DoResponse, error) {
					if sent {
						return nil, io.EOF
					}
					sent = true
					return &fedv1.DoResponse{Chunk: body}, nil
				}}}
		}
		for _, status := range []int{200, 307} {
			for _, read := range []func(context.Context, *answer) (*remoteFile, error){m.multipart, m.plain} {
				src, err := read(t.Context(), answerOf(status))
				if err != nil {
					continue
				}
				n, _ := io.Copy(io.Discard, src.body)
				src.close()
				if n > int64(len(body)) || src.head.Bytes < -1 || !utf8.ValidString(src.head.Name) {
					t.Errorf("%d of %d bytes, %v", n, len(body), src.head)
				}
				h := make(http.Header)
				headers(h, src.head.Type, src.head.Name)
				for key, values := range h {
					for _, v := range values {
						for _, r := range v {
							if r < ' ' && r != '\t' || r > '~' {
								t.Errorf("%s: %q", key, v)
							}
						}
					}
				}
			}
		}
		if err := remoteError(answerOf(404)); err == nil {
			t.Error("an error that is none")
		}
	})
}

// What events name is an id, or nothing.
func FuzzMediaInEvent(f *testing.F) {
	f.Add([]byte(`{"url":"mxc://a.example/x","info":{"thumbnail_url":"mxc://a.example/y?z#w"}}`))
	f.Add([]byte(`{"url":["mxc://a/b"],"info":"x"}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, i := range mediaIn(content) {
			if again, err := mediastore.ParseID(string(i.Origin), i.Media); err != nil || again != i {
				t.Errorf("%q of %q", i, content)
			}
		}
	})
}
