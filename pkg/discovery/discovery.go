package discovery

import (
	_ "embed"
	"html/template"
	"net/http"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
)

// Names says which server name a request is for (servers.Registry).
type Names interface {
	ForHost(host string) id.Server
}

// Discovery answers requests for it.
type Discovery struct {
	cfg   Config
	names Names
}

// New returns what answers with this configuration.
func New(cfg Config, names Names) *Discovery { return &Discovery{cfg: cfg, names: names} }

// Routes registers the documents and the page.
func (d *Discovery) Routes(rt *httpx.Router) {
	rt.Handle("GET /", d.page)
	rt.Handle("GET /.well-known/matrix/client", d.client)
	rt.Handle("GET /.well-known/matrix/server", d.server)
	rt.Handle("GET /.well-known/matrix/support", d.support)
}

// client answers GET /.well-known/matrix/client. Clients in browsers read it from any page (client-server API, "Web
// Browser Clients"), also where it comes from the listener for servers.
func (d *Discovery) client(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Access-Control-Allow-Origin", "*")
	if d.cfg.PublicBaseURL == "" {
		return merr.NotFound("No client discovery information is configured")
	}
	return httpx.OK(w, map[string]any{"m.homeserver": map[string]string{"base_url": d.cfg.PublicBaseURL}})
}

// server answers GET /.well-known/matrix/server.
func (d *Discovery) server(w http.ResponseWriter, _ *http.Request) error {
	if d.cfg.PublicServer == "" {
		return merr.NotFound("No server discovery information is configured")
	}
	return httpx.OK(w, map[string]string{"m.server": d.cfg.PublicServer})
}

// support answers GET /.well-known/matrix/support.
func (d *Discovery) support(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Access-Control-Allow-Origin", "*")
	s := d.cfg.Support
	if s.Page == "" && len(s.Contacts) == 0 {
		return merr.NotFound("No support information is configured")
	}
	answer := make(map[string]any)
	if s.Page != "" {
		answer["support_page"] = s.Page
	}
	if len(s.Contacts) > 0 {
		contacts := make([]map[string]string, len(s.Contacts))
		for i, ct := range s.Contacts {
			m := map[string]string{"role": ct.Role}
			if ct.MatrixID != "" {
				m["matrix_id"] = ct.MatrixID
			}
			if ct.Email != "" {
				m["email_address"] = ct.Email
			}
			contacts[i] = m
		}
		answer["contacts"] = contacts
	}
	return httpx.OK(w, answer)
}

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// page answers GET / with a few words for people who open the address in a browser.
func (d *Discovery) page(w http.ResponseWriter, r *http.Request) error {
	b := httpx.Buffer()
	defer httpx.Recycle(b)
	err := pageTemplate.Execute(b, map[string]any{
		"Server": d.names.ForHost(r.Host), "BaseURL": d.cfg.PublicBaseURL, "Support": d.cfg.Support.Page,
	})
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(b.Bytes()) // whoever asked may be gone
	return nil
}
