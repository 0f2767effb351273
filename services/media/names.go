package media

import (
	"mime"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// anyType is the type of what has none, or one that is none.
const anyType = "application/octet-stream"

const (
	// maxType and maxName bound what is kept of a type, in bytes, and of a file name, in characters.
	maxType, maxName = 255, 255
)

// cleanType returns a media type as it may be sent in a header.
func cleanType(t string) string {
	if len(t) > maxType {
		return anyType
	}
	typ, params, err := mime.ParseMediaType(t)
	if err != nil || !strings.Contains(typ, "/") {
		return anyType
	}
	if t = mime.FormatMediaType(typ, params); t == "" {
		return anyType
	}
	return t
}

// cleanName returns a file name without what could deceive who sees it: control characters, and those that change the
// direction of the text that follows.
func cleanName(name string) string {
	name = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(name, ""))
	if utf8.RuneCountInString(name) > maxName {
		name = string([]rune(name)[:maxName])
	}
	return name
}

// inline are the types that browsers may show in place (client-server API, "Serving inline content").
var inline = map[string]bool{
	"text/css": true, "text/plain": true, "text/csv": true, "application/json": true, "application/ld+json": true,
	"image/jpeg": true, "image/gif": true, "image/png": true, "image/apng": true, "image/webp": true, "image/avif": true,
	"video/mp4": true, "video/webm": true, "video/ogg": true, "video/quicktime": true,
	"audio/mp4": true, "audio/webm": true, "audio/aac": true, "audio/mpeg": true, "audio/ogg": true, "audio/wave": true,
	"audio/wav": true, "audio/x-wav": true, "audio/x-pn-wav": true, "audio/flac": true, "audio/x-flac": true,
}

// disposition is the Content-Disposition of a file.
func disposition(contentType, name string) string {
	how := "attachment"
	if typ, _, err := mime.ParseMediaType(contentType); err == nil && inline[typ] {
		how = "inline"
	}
	switch {
	case name == "":
		return how
	case isToken(name):
		return how + "; filename=" + name
	case strings.IndexFunc(name, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' || r == '%' }) < 0:
		return how + `; filename="` + name + `"`
	}
	return how + "; filename*=utf-8''" + strings.ReplaceAll(url.QueryEscape(name), "+", "%20")
}

// isToken reports whether a name needs no quotes (RFC 9110, 5.6.2).
func isToken(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("!#$&'*+-.^_`|~", r))
	}) < 0
}

// nameOf is the file name that a Content-Disposition of another server has.
func nameOf(disposition string) string {
	if len(disposition) > 8<<10 {
		return ""
	}
	_, params, err := mime.ParseMediaType(disposition)
	if err != nil {
		return ""
	}
	return cleanName(params["filename"])
}
