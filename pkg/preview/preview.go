// Package preview reads from a page of the web what a client shows of it: its title, a description, a picture.
//
// # Model
//
// Page reads Open Graph properties, Twitter cards, the title, the description and, without one, the first text of the page,
// from a stream of tags: no tree is built, so memory does not depend on how a page is nested. AddEmbed reads an oEmbed answer,
// to which a page may point.
//
// # Invariants
//
// No more is read than the caller's reader gives, and what is returned is bounded: values, and lengths of values.
//
// # Failures
//
// A page that says nothing of itself has an empty preview. What is broken is read as browsers do.
package preview

import (
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"strings"
	"unicode"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
	"golang.org/x/net/html/charset"
)

const (
	// maxValues bounds the properties of a page, maxValue the characters of one.
	maxValues, maxValue = 50, 1000
	// enoughText is how many characters of a page's text stand for a description.
	enoughText = 300
)

// Preview is what a page says of itself.
type Preview struct {
	// OG are its Open Graph properties, but for those of pictures.
	OG map[string]string
	// Image is where its picture is, empty if it has none.
	Image string
	// Embed is where its oEmbed answer is, empty if it has none.
	Embed string
}

// Page reads a page of HTML. Its charset is that of the type, of the page itself, or guessed.
func Page(r io.Reader, contentType string, at *url.URL) (*Preview, error) {
	decoded, err := charset.NewReader(r, contentType)
	if errors.Is(err, io.EOF) {
		return &Preview{OG: make(map[string]string)}, nil
	}
	if err != nil {
		return nil, err
	}
	p := &page{at: at, og: make(map[string]string), twitter: make(map[string]string)}
	z := html.NewTokenizer(decoded)
	z.SetMaxBuf(256 << 10)
	for {
		switch z.Next() {
		case html.ErrorToken:
			return p.preview(), nil // its end, or what cannot be read further: what came before counts
		case html.StartTagToken, html.SelfClosingTagToken:
			p.tag(z)
		case html.EndTagToken:
			name, _ := z.TagName()
			p.end(atom.Lookup(name))
		case html.TextToken:
			p.addText(string(z.Text()))
		}
	}
}

// page is what was read so far.
type page struct {
	at          *url.URL
	og, twitter map[string]string
	description string
	embed       string
	title       strings.Builder
	inTitle     bool
	skip        int // elements whose text is none
	body        bool
	text        strings.Builder
	icon        string
}

// silent are elements whose text nobody reads.
func silent(a atom.Atom) bool {
	switch a {
	case atom.Script, atom.Style, atom.Noscript, atom.Template, atom.Svg, atom.Nav, atom.Header, atom.Footer, atom.Aside, atom.Button, atom.Select, atom.Textarea:
		return true
	}
	return false
}

func (p *page) tag(z *html.Tokenizer) {
	name, more := z.TagName()
	a := atom.Lookup(name)
	switch {
	case a == atom.Meta:
		p.meta(attributes(z, more))
	case a == atom.Link:
		p.link(attributes(z, more))
	case a == atom.Title:
		p.inTitle = p.title.Len() == 0
	case a == atom.Body:
		p.body = true
	case silent(a):
		p.skip++
	}
}

func (p *page) end(a atom.Atom) {
	switch {
	case a == atom.Title:
		p.inTitle = false
	case silent(a) && p.skip > 0:
		p.skip--
	}
}

func (p *page) addText(t string) {
	switch {
	case p.inTitle && p.title.Len() < 4*maxValue:
		p.title.WriteString(t)
	case p.body && p.skip == 0 && p.text.Len() < 4*enoughText:
		p.text.WriteString(t)
		p.text.WriteByte(' ')
	}
}

func attributes(z *html.Tokenizer, more bool) map[string]string {
	all := make(map[string]string, 4)
	for n := 0; more && n < 32; n++ {
		var k, v []byte
		k, v, more = z.TagAttr()
		all[string(k)] = string(v)
	}
	return all
}

func (p *page) meta(a map[string]string) {
	name, value := strings.ToLower(a["property"]), clean(a["content"])
	if name == "" {
		name = strings.ToLower(a["name"])
	}
	if value == "" {
		return
	}
	switch {
	case strings.HasPrefix(name, "og:"):
		keep(p.og, name, value)
	case strings.HasPrefix(name, "twitter:"):
		keep(p.twitter, name, value)
	case strings.HasPrefix(name, "article:"), strings.HasPrefix(name, "profile:"):
		keep(p.og, name, value)
	case name == "description" && p.description == "":
		p.description = value
	}
}

// keep keeps the first value of a property.
func keep(m map[string]string, name, value string) {
	if _, ok := m[name]; !ok && len(m) < maxValues && len(name) <= 64 {
		m[name] = value
	}
}

func (p *page) link(a map[string]string) {
	rel := " " + strings.ToLower(a["rel"]) + " "
	switch {
	case p.embed == "" && strings.Contains(rel, " alternate ") && strings.EqualFold(a["type"], "application/json+oembed"):
		p.embed = p.resolve(a["href"])
	case p.icon == "" && strings.Contains(rel, " icon "):
		p.icon = p.resolve(a["href"])
	}
}

func (p *page) resolve(ref string) string {
	u, err := p.at.Parse(strings.TrimSpace(ref))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return ""
	}
	return u.String()
}

func (p *page) preview() *Preview {
	out := &Preview{OG: p.og, Embed: p.embed}
	for _, property := range []string{"title", "description", "site_name"} {
		if out.OG["og:"+property] == "" && p.twitter["twitter:"+property] != "" {
			out.OG["og:"+property] = p.twitter["twitter:"+property]
		}
	}
	if t := clean(p.title.String()); out.OG["og:title"] == "" && t != "" {
		out.OG["og:title"] = t
	}
	if out.OG["og:description"] == "" {
		if p.description == "" {
			p.description = cut(clean(p.text.String()), enoughText)
		}
		if p.description != "" {
			out.OG["og:description"] = p.description
		}
	}
	for _, ref := range []string{p.og["og:image:secure_url"], p.og["og:image"], p.og["og:image:url"], p.twitter["twitter:image"], p.twitter["twitter:image:src"]} {
		if ref != "" {
			if out.Image = p.resolve(ref); out.Image != "" {
				break
			}
		}
	}
	if out.Image == "" {
		out.Image = p.icon
	}
	for name := range out.OG {
		if strings.HasPrefix(name, "og:image") {
			delete(out.OG, name) // what there is of the picture is what we have seen ourselves
		}
	}
	return out
}

// AddEmbed reads an oEmbed answer, and adds to a preview what it lacks.
func (p *Preview) AddEmbed(raw []byte, at *url.URL) {
	var e struct {
		Title     string `json:"title"`
		Author    string `json:"author_name"`
		Provider  string `json:"provider_name"`
		Thumbnail string `json:"thumbnail_url"`
		Type      string `json:"type"`
		URL       string `json:"url"`
	}
	if json.Unmarshal(raw, &e) != nil {
		return
	}
	for name, value := range map[string]string{"og:title": e.Title, "og:site_name": e.Provider, "og:article:author": e.Author} {
		if value = clean(value); value != "" && p.OG[name] == "" {
			p.OG[name] = value
		}
	}
	where := &page{at: at}
	if e.Type == "photo" && e.URL != "" {
		p.Image = where.resolve(e.URL)
	}
	if p.Image == "" && e.Thumbnail != "" {
		p.Image = where.resolve(e.Thumbnail)
	}
}

// Text is the preview of a file of plain text.
func Text(r io.Reader, contentType string) (*Preview, error) {
	decoded, err := charset.NewReader(r, contentType)
	if errors.Is(err, io.EOF) {
		return &Preview{OG: make(map[string]string)}, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(decoded, 4*maxValue))
	if err != nil && len(b) == 0 {
		return nil, err
	}
	p := &Preview{OG: make(map[string]string)}
	if t := cut(clean(string(b)), enoughText); t != "" {
		p.OG["og:description"] = t
	}
	return p, nil
}

// clean makes one line of a text, without control characters and without what changes the direction of what follows.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == unicode.ReplacementChar, unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	return cut(strings.Join(strings.Fields(s), " "), maxValue)
}

func cut(s string, n int) string {
	runes := 0
	for i := range s {
		if runes++; runes > n {
			return s[:i] + "…"
		}
	}
	return s
}

// Size adds what is known of the picture that is shown.
func Size(og map[string]any, width, height int, typ string, bytes int64) {
	og["og:image:width"], og["og:image:height"] = width, height
	og["og:image:type"] = typ
	og["matrix:image:size"] = bytes
}
