package registry

import (
	"net/netip"
	"testing"
)

func TestThePodOwnsAnAddressHoweverItIsSpelled(t *testing.T) {
	p := Pod{
		Addresses: []netip.Addr{netip.MustParseAddr("2001:db8::a1"), netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fe80::1%eth0")},
		Names:     []string{"orders-0.orders.shop.svc.cluster.local."},
		Ports:     []uint16{8080},
	}
	for host, want := range map[string]bool{
		"2001:db8::a1":                            true,
		"2001:db8:0:0:0:0:0:a1":                   true,
		"[2001:db8:0:0:0:0:0:a1]":                 true,
		"[2001:DB8::A1]":                          true,
		"2001:db8::a1%eth0":                       true,
		"[2001:db8::a1%25eth0]":                   true,
		"fe80::1":                                 true,
		"[fe80::1%eth1]":                          true,
		"10.1.2.3":                                true,
		" 10.1.2.3 ":                              true,
		"::ffff:10.1.2.3":                         true,
		"[::FFFF:10.1.2.3]":                       true,
		"::ffff:a01:203":                          true,
		"Orders-0.orders.shop.svc.cluster.LOCAL":  true,
		"orders-0.orders.shop.svc.cluster.local.": true,
		"orders-0":                                false,
		"[2001:db8::a2]":                          false,
		"10.1.2.30":                               false,
		"[]":                                      false,
		"":                                        false,
		".":                                       false,
	} {
		if got := p.Owns(host, 8080); got != want {
			t.Errorf("%q: %v, want %v", host, got, want)
		}
	}
}
