// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package examples

import (
	"flag"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
)

var all = flag.Bool("examples", false, "run all examples, for some minutes and with downloads")

// skip leaves out a test that nobody has asked for.
func skip(t *testing.T) {
	t.Helper()
	if !*all {
		t.Skip("needs minutes and downloads: make examples, or the flag -examples")
	}
}

var (
	e1000At2   = rig.NIC{Model: "e1000", Slot: "2"}
	rtl8139At2 = rig.NIC{Model: "rtl8139", Slot: "2"}
	virtioAt5  = rig.NIC{Model: "virtio-net-pci", Slot: "5"}
)

// TestHello asks the Go program, moves it, and asks again over the same connection: it
// has gone on counting.
func TestHello(t *testing.T) {
	if testing.Short() {
		t.Skip("a VM test")
	}
	bed := open(t, testbed.Subnet4)
	a := boot(t, "hello", bed, e1000At2)
	a.countsOn(bed, rtl8139At2, func(http.Header) {})
}

// TestProxy asks nginx, which asks the Go program behind it; from outside, that one is
// not reached. After a move both connections go on.
func TestProxy(t *testing.T) {
	skip(t)
	bed := open(t, testbed.Subnet4)
	a := boot(t, "proxy", bed, e1000At2)
	a.countsOn(bed, virtioAt5, func(h http.Header) {
		if server, via := h.Get("Server"), h.Get("Via"); server != "nginx" || via != "1.1 proxy" {
			t.Errorf("the answer is from server %q via %q, want nginx via 1.1 proxy", server, via)
		}
	})
	conn, err := bed.Peer.Dial(a.ctx, netip.AddrPortFrom(testbed.FirstLease, 8080))
	if err == nil {
		conn.Close()
		t.Error("the program behind the proxy is reached from outside")
	} else if !strings.Contains(err.Error(), "refused") {
		t.Errorf("the program behind the proxy: %v, want that the connection is refused", err)
	}
}

// countsOn asks an appliance that counts before and after a move to a host with nic.
func (a *appliance) countsOn(bed *testbed.Bed, nic rig.NIC, check func(http.Header)) {
	a.t.Helper()
	const port = 80
	client, url := browser(bed.Peer), "http://"+netip.AddrPortFrom(testbed.FirstLease, port).String()
	count := func() (n int) {
		a.t.Helper()
		header, body := a.get(client, url)
		check(header)
		if _, err := fmt.Sscanf(body, "Hello from "+a.name+", for the %d. time", &n); err != nil {
			a.t.Fatalf("the answer is %q: %v", body, err)
		}
		return n
	}
	before := count()
	opened, reset := bed.Flows.Port(port)
	a.move(nic)
	if after := count(); after != before+1 {
		a.t.Errorf("it has counted to %d before the move, and to %d after it", before, after)
	}
	if syn, rst := bed.Flows.Port(port); syn != opened || rst != reset {
		a.t.Errorf("the connection did not go on: %d SYN and %d RST more on the wire", syn-opened, rst-reset)
	}
}
