package fedclient

import (
	"net/http"
	"testing"
	"time"

	"hanse/pkg/matrix/id"
)

func FuzzWellKnown(f *testing.F) {
	f.Add([]byte(`{"m.server":"a.test:443"}`), "max-age=3600", "")
	f.Add([]byte(`{"m.server":"[::1]:1"}`), `no-store, max-age="1"`, "Thu, 01 Dec 1994 16:00:00 GMT")
	f.Add([]byte(`{"m.server":1}`), "max-age=99999999999999999999", "x")
	f.Fuzz(func(t *testing.T, body []byte, control, expires string) {
		if server, err := parseWellKnown(body); err == nil {
			if _, err := id.ParseServer(string(server)); err != nil {
				t.Errorf("delegated to %q: %v", server, err)
			}
		}
		age := cacheTime(http.Header{"Cache-Control": {control}, "Expires": {expires}}, time.Now())
		if age < wellKnownMin || age > wellKnownMax {
			t.Errorf("kept for %s", age)
		}
	})
}

// Whatever a name leads to has a target, a name for the certificate, and a Host.
func FuzzLiteral(f *testing.F) {
	for _, s := range []string{"1.2.3.4", "1.2.3.4:80", "[::1]", "[fe80::1]:8448", "a.test:1", "a.test"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		server, err := id.ParseServer(s)
		if err != nil {
			return
		}
		host, port := server.HostPort()
		if rt := literalOrPort(server, host, port); rt != nil && (len(rt.Targets) != 1 || rt.TLSName == "" || rt.Host != s) {
			t.Errorf("%q leads to %+v", s, rt)
		}
	})
}
