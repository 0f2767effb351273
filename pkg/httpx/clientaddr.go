package httpx

import (
	"net/http"
	"net/netip"
	"strings"
)

// ClientAddr is the address of the client: of the connection, or what trusted proxies say. It is
// the zero Addr if that is unknown.
func ClientAddr(r *http.Request) netip.Addr {
	if s := stateOf(r); s != nil {
		return s.client
	}
	return clientAddr(r, nil)
}

// ClientKey names the client in limits and budgets that go by address; see AddrKey.
func ClientKey(r *http.Request) string { return AddrKey(ClientAddr(r)) }

// AddrKey names an address in limits and budgets. IPv6 addresses count by their /64: who has one address of such a
// network has all of them (RFC 4291, section 2.5.4). An address that stands for an IPv4 address counts as that one
// (RFC 6052, section 2.1), lest all of IPv4 have one budget behind a translator.
func AddrKey(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if !a.Is6() {
		return a.String()
	}
	if b := a.As16(); nat64.Contains(a) {
		return netip.AddrFrom4([4]byte(b[12:])).String()
	}
	return netip.PrefixFrom(a, 64).Masked().String()
}

var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// clientAddr walks X-Forwarded-For from its end, through trusted proxies only: the first address
// that is not one of them is the client.
func clientAddr(r *http.Request, trusted []netip.Prefix) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	addr := ap.Addr().Unmap().WithZone("")
	if len(trusted) == 0 || !contains(trusted, addr) {
		return addr
	}
	fields := r.Header.Values("X-Forwarded-For")
	for i := len(fields) - 1; i >= 0; i-- {
		hops := strings.Split(fields[i], ",")
		for j := len(hops) - 1; j >= 0; j-- {
			hop, err := parseHop(strings.TrimSpace(hops[j]))
			if err != nil {
				return addr // whoever wrote this is the last one we can name
			}
			addr = hop
			if !contains(trusted, addr) {
				return addr
			}
		}
	}
	return addr
}

// parseHop reads an address with or without a port.
func parseHop(s string) (netip.Addr, error) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap().WithZone(""), nil
	}
	a, err := netip.ParseAddr(strings.Trim(s, "[]"))
	return a.Unmap().WithZone(""), err
}

func contains(ps []netip.Prefix, a netip.Addr) bool {
	for _, p := range ps {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
