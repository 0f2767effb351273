package media

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"time"

	"hanse/pkg/netguard"
)

const (
	// webRedirects bounds how often an address that others named leads elsewhere.
	webRedirects = 5
	webDial      = 10 * time.Second
)

var errRedirects = errors.New("too many redirects, or one that leads away from the web")

// newWeb returns a client for addresses that others name. The guard sees each address when it is connected to, after each
// redirect and each answer of DNS. There are no proxies, cookies or credentials. resolver may be nil.
func newWeb(guard *netguard.Guard, resolver *net.Resolver, roots *x509.CertPool) *http.Client {
	if guard == nil {
		guard = new(netguard.Guard)
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: guard.Dialer(webDial, resolver).DialContext, ForceAttemptHTTP2: true, TLSHandshakeTimeout: webDial,
			TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			ResponseHeaderTimeout: 20 * time.Second, MaxResponseHeaderBytes: 64 << 10, MaxConnsPerHost: 8, IdleConnTimeout: 30 * time.Second, MaxIdleConns: 64,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) >= webRedirects || !isWeb(r) {
				return errRedirects
			}
			r.Header.Del("Referer")
			return nil
		},
	}
}

// isWeb reports whether a request leads to the web, and to nothing that a name or a port would tell otherwise.
func isWeb(r *http.Request) bool { return isWebURL(r.URL) }

func isWebURL(u *url.URL) bool {
	return (u.Scheme == "https" || u.Scheme == "http") && u.Hostname() != "" && u.User == nil && u.Opaque == ""
}
