package httpx

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
)

var (
	jsonType    = []string{"application/json"}
	emptyObject = []byte("{}")
)

// bufferMax is the largest buffer that goes back to the pool.
const bufferMax = 256 << 10

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// Buffer returns an empty buffer from the pool, for an answer that is built piece by piece and sent
// with Send.
func Buffer() *bytes.Buffer { return buffers.Get().(*bytes.Buffer) }

// Recycle gives a buffer back; its bytes must not be used any more.
func Recycle(b *bytes.Buffer) {
	if b.Cap() <= bufferMax {
		b.Reset()
		buffers.Put(b)
	}
}

// Send answers 200 with the JSON in b and recycles b.
func Send(w http.ResponseWriter, b *bytes.Buffer) error {
	err := Raw(w, http.StatusOK, b.Bytes())
	Recycle(b)
	return err
}

// Raw answers with bytes that are JSON. It always returns nil: if the client has gone, nobody is
// left to tell.
func Raw(w http.ResponseWriter, status int, body []byte) error {
	h := w.Header()
	h["Content-Type"] = jsonType
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	_, _ = w.Write(body)
	return nil
}

// Empty answers 200 with {}.
func Empty(w http.ResponseWriter) error { return Raw(w, http.StatusOK, emptyObject) }

// JSON answers with v marshalled; for answers that are not hot.
func JSON(w http.ResponseWriter, status int, v any) error {
	b := Buffer()
	defer Recycle(b)
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("marshal answer: %w", err)
	}
	return Raw(w, status, bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}

// OK answers 200 with v marshalled.
func OK(w http.ResponseWriter, v any) error { return JSON(w, http.StatusOK, v) }

// AppendString appends s as a JSON string. Invalid UTF-8 becomes U+FFFD.
func AppendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i, c := range s {
		var esc string
		switch {
		case c == '"':
			esc = `\"`
		case c == '\\':
			esc = `\\`
		case c == '\n':
			esc = `\n`
		case c == '\r':
			esc = `\r`
		case c == '\t':
			esc = `\t`
		case c < 0x20:
			esc = `\u00` + string([]byte{hex[c>>4], hex[c&15]})
		case c == '\uFFFD' && !validAt(s, i):
			b = append(b, s[start:i]...)
			b = append(b, "\uFFFD"...)
			start = i + 1
			continue
		default:
			continue
		}
		b = append(b, s[start:i]...)
		b = append(b, esc...)
		start = i + 1
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

// validAt reports whether the U+FFFD at i was in the string rather than made by the range loop.
func validAt(s string, i int) bool { return len(s) >= i+3 && s[i:i+3] == "\uFFFD" }
