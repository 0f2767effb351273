package preview

import (
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"
)

var at = &url.URL{Scheme: "https", Host: "example.org", Path: "/a/b"}

func TestPage(t *testing.T) {
	for name, q := range map[string]struct {
		typ, page    string
		want         map[string]string
		image, embed string
	}{
		"open graph": {"text/html; charset=utf-8", `<html><head><title>T</title><meta property="og:title" content="A &amp; B"><meta property="og:description" content=" d
			e ">
			<meta property=og:image content=/pic.png><meta property="og:image:width" content="99999"></head>`,
			map[string]string{"og:title": "A & B", "og:description": "d e"}, "https://example.org/pic.png", ""},
		"twitter": {"text/html", `<meta name="twitter:title" content="T"><meta name="twitter:image" content="//cdn.example/x"><meta name="twitter:description" content="D">`,
			map[string]string{"og:title": "T", "og:description": "D"}, "https://cdn.example/x", ""},
		"title and text": {"text/html", `<title>The title</title><body><nav>Menu</nav><script>var x = "<p>no"</script><h1>Hello</h1><p>some text</p>`,
			map[string]string{"og:title": "The title", "og:description": "Hello some text"}, "", ""},
		"description":       {"text/html", `<meta name=description content="said"><body>not this`, map[string]string{"og:description": "said"}, "", ""},
		"latin-1":           {"text/html; charset=iso-8859-1", "<title>\xfcber</title>", map[string]string{"og:title": "über"}, "", ""},
		"charset in itself": {"text/html", "<meta charset=windows-1251><title>\xcf\xf0\xe8\xe2\xe5\xf2</title>", map[string]string{"og:title": "Привет"}, "", ""},
		"oembed":            {"text/html", `<link rel="alternate" type="application/json+oembed" href="/oembed?x=1"><title>x</title>`, map[string]string{"og:title": "x"}, "", "https://example.org/oembed?x=1"},
		"scripts as images": {"text/html", `<meta property="og:image" content="javascript:alert(1)"><meta property="og:title" content="x` + "\u202e\x00" + `y">`, map[string]string{"og:title": "xy"}, "", ""},
		"nothing":           {"text/html", "", map[string]string{}, "", ""},
		"icon":              {"text/html", `<link rel="shortcut icon" href="fav.ico">`, map[string]string{}, "https://example.org/a/fav.ico", ""},
	} {
		p, err := Page(strings.NewReader(q.page), q.typ, at)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(p.OG) != len(q.want) || p.Image != q.image || p.Embed != q.embed {
			t.Errorf("%s: %+v", name, p)
		}
		for k, v := range q.want {
			if p.OG[k] != v {
				t.Errorf("%s: %s is %q, want %q", name, k, p.OG[k], v)
			}
		}
	}
}

func TestEmbed(t *testing.T) {
	p := &Preview{OG: map[string]string{"og:title": "page"}}
	p.AddEmbed([]byte(`{"title":"t","author_name":"anna","type":"photo","url":"/photo.jpg","thumbnail_url":"x"}`), at)
	if p.OG["og:title"] != "page" || p.OG["og:article:author"] != "anna" || p.Image != "https://example.org/photo.jpg" {
		t.Errorf("%+v", p)
	}
	p.AddEmbed([]byte(`{"title":5`), at)
}

// What comes out is bounded and readable, whatever goes in.
func FuzzPage(f *testing.F) {
	f.Add([]byte(`<title>x</title><meta property="og:title" content="y">`), "text/html; charset=utf-8")
	f.Add([]byte("<meta charset=utf-16><title>\xff\xfe"), "text/html")
	f.Add([]byte(strings.Repeat("<div><script>", 500)), "text/html; charset=gbk")
	f.Add([]byte(`{"title":"x","type":"photo","url":"http://[::1"}`), "")
	f.Fuzz(func(t *testing.T, page []byte, typ string) {
		p, err := Page(strings.NewReader(string(page)), typ, at)
		if err != nil {
			return
		}
		p.AddEmbed(page, at)
		if len(p.OG) > maxValues+8 {
			t.Errorf("%d values", len(p.OG))
		}
		for k, v := range p.OG {
			if utf8.RuneCountInString(v) > maxValue+1 || !utf8.ValidString(v) || strings.ContainsAny(v, "\n\r\x00") {
				t.Errorf("%q: %.50q", k, v)
			}
		}
		for _, ref := range []string{p.Image, p.Embed} {
			if u, err := url.Parse(ref); ref != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https") {
				t.Errorf("%q", ref)
			}
		}
	})
}

// A text of any charset becomes a bounded, readable one.
func FuzzText(f *testing.F) {
	f.Add([]byte("\xfcber alles"), "text/plain; charset=iso-8859-1")
	f.Add([]byte("\xff\xfex\x00"), "text/plain; charset=utf-16")
	f.Add([]byte("a\x1b$B\x30"), "text/plain; charset=iso-2022-jp")
	f.Fuzz(func(t *testing.T, text []byte, typ string) {
		p, err := Text(strings.NewReader(string(text)), typ)
		if err != nil {
			return
		}
		for k, v := range p.OG {
			if utf8.RuneCountInString(v) > maxValue+1 || !utf8.ValidString(v) || strings.ContainsAny(v, "\n\r\x00") {
				t.Errorf("%q: %.50q", k, v)
			}
		}
	})
}
