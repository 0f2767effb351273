package netguard

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestCheck(t *testing.T) {
	g := &Guard{
		Allow: prefixes("10.1.0.0/16", "127.0.0.2/32", "fd00:1::/32"),
		Deny:  prefixes("10.1.2.0/24", "8.8.8.0/24"),
	}
	for addr, ok := range map[string]bool{
		"1.1.1.1": true, "2606:4700::1111": true, "172.15.0.1": true, "100.63.255.255": true, "100.128.0.0": true,
		"10.1.0.1": true, "127.0.0.2": true, "fd00:1::5": true, "::ffff:10.1.0.1": true,
		"10.1.2.3": false, "8.8.8.8": false, "::ffff:8.8.8.8": false,
		"10.2.0.1": false, "192.168.1.1": false, "172.16.0.1": false, "127.0.0.1": false, "127.1.2.3": false,
		"169.254.169.254": false, "100.64.0.1": false, "0.0.0.0": false, "0.1.2.3": false, "224.0.0.1": false,
		"255.255.255.255": false, "240.0.0.1": false, "192.0.2.1": false, "198.18.0.1": false, "203.0.113.9": false,
		"::1": false, "::": false, "fe80::1": false, "fc00::1": false, "fd00:2::1": false, "ff02::1": false,
		"::ffff:127.0.0.1": false, "::ffff:192.168.0.1": false, "::7f00:1": false, "2001:db8::1": false,
		"64:ff9b::7f00:1": false, "64:ff9b::a00:1": false, "64:ff9b::101:101": true, "64:ff9b::808:808": false,
		"2002:7f00:1::": false, "2002:c0a8:101::1": false, "2002:101:101::1": true, "2001:0:1::1": false,
		"fe80::1%eth0": false,
	} {
		err := g.Check(netip.MustParseAddr(addr))
		if (err == nil) != ok {
			t.Errorf("Check(%s) = %v, want allowed: %v", addr, err, ok)
		}
		var refused *Error
		if err != nil && !errors.As(err, &refused) {
			t.Errorf("Check(%s) = %T, want *Error", addr, err)
		}
	}
	if err := new(Guard).Check(netip.Addr{}); err == nil {
		t.Error("the zero address is allowed")
	}
}

// A name that resolves to a refused address is refused when the connection is made, whatever it resolved to before.
func TestDialerChecksTheAddressThatIsDialled(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var refused *Error
	conn, err := new(Guard).Dialer(time.Minute, nil).DialContext(ctx, "tcp", net.JoinHostPort("localhost", port))
	if !errors.As(err, &refused) {
		t.Fatalf("dial = %v, %v; want *Error", conn, err)
	}
	g := &Guard{Allow: prefixes("127.0.0.0/8")}
	if conn, err = g.Dialer(time.Minute, nil).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", port)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if _, err := g.Dialer(time.Minute, nil).DialContext(ctx, "udp", net.JoinHostPort("127.0.0.1", port)); err == nil {
		t.Error("UDP is allowed")
	}
}
