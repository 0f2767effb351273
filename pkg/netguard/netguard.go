// Package netguard decides which addresses this cluster connects to when somebody else chose the name: other servers,
// what their .well-known files and redirects point at, URL previews, push gateways.
//
// The rule is applied to the address that is about to be connected to, after all resolution (net.Dialer.Control), so
// that a name which resolves to something harmless first and to 127.0.0.1 later gains nothing.
package netguard

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// Guard is the rule. The zero value refuses everything that is not public.
type Guard struct {
	// Allow are networks that may be connected to although they are not public.
	Allow []netip.Prefix
	// Deny are networks that are never connected to, even if Allow has them.
	Deny []netip.Prefix
}

// Error says that an address was refused.
type Error struct {
	Addr   netip.Addr
	Reason string
}

func (e *Error) Error() string {
	return fmt.Sprintf("connections to %s are not allowed: %s", e.Addr, e.Reason)
}

// special are the networks that nobody on the internet has (IANA special-purpose address registries), beside those
// that netip.Addr knows itself.
var special = prefixes(
	"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
	"203.0.113.0/24", "240.0.0.0/4",
	"::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16", "fec0::/10",
)

// embedding are networks whose addresses stand for an IPv4 address, and the byte where that begins.
var embedding = []struct {
	net netip.Prefix
	at  int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12}, // NAT64
	{netip.MustParsePrefix("2002::/16"), 2},     // 6to4
}

func prefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, t := range texts {
		out[i] = netip.MustParsePrefix(t)
	}
	return out
}

// Check returns an *Error for an address that must not be connected to.
func (g *Guard) Check(addr netip.Addr) error {
	addr = addr.Unmap().WithZone("")
	if contains(g.Deny, addr) {
		return &Error{addr, "denied by the configuration"}
	}
	if contains(g.Allow, addr) {
		return nil
	}
	for _, e := range embedding {
		if e.net.Contains(addr) {
			b := addr.As16()
			return g.Check(netip.AddrFrom4([4]byte(b[e.at : e.at+4])))
		}
	}
	switch {
	case !addr.IsValid(), addr.IsUnspecified():
		return &Error{addr, "not an address"}
	case addr.IsLoopback():
		return &Error{addr, "loopback"}
	case addr.IsPrivate():
		return &Error{addr, "private"}
	case addr.IsLinkLocalUnicast():
		return &Error{addr, "link-local"}
	case addr.IsMulticast():
		return &Error{addr, "multicast"}
	case contains(special, addr):
		return &Error{addr, "not public"}
	}
	return nil
}

func contains(nets []netip.Prefix, addr netip.Addr) bool {
	for _, n := range nets {
		// A prefix of mapped IPv4 addresses means the IPv4 addresses.
		if n.Addr().Is4In6() && n.Bits() >= 96 {
			n = netip.PrefixFrom(n.Addr().Unmap(), n.Bits()-96)
		}
		if n.Contains(addr) {
			return true
		}
	}
	return false
}

// Control is for net.Dialer.ControlContext: it sees the address that the socket is about to connect to.
func (g *Guard) Control(_ context.Context, network, address string, _ syscall.RawConn) error {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return fmt.Errorf("connections by %s are not allowed", network)
	}
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("address %q: %w", address, err)
	}
	return g.Check(to.Addr())
}

// Dialer returns a dialer that obeys the rule. resolver may be nil.
func (g *Guard) Dialer(timeout time.Duration, resolver *net.Resolver) *net.Dialer {
	return &net.Dialer{Timeout: timeout, KeepAlive: 30 * time.Second, Resolver: resolver, ControlContext: g.Control}
}
