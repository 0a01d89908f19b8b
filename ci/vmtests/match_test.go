// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/image"
)

// MACs of the roles of TestMatch that a host knows.
const (
	ownMAC     = "52:54:00:75:02:00" // that net0 is configured to have
	matchedMAC = "52:54:00:75:02:01" // that net1 asks of its device
)

// matchImage has a role for each rule.
var matchImage = sync.OnceValues(func() (*image.Bundle, error) {
	extra := fmt.Sprintf("mac = %q\n", ownMAC)
	for n, rule := range []string{
		fmt.Sprintf("mac = %q", matchedMAC),
		`address = "0000:00:05.0"`,
		`ids = "15ad:07b0"`, // vmxnet3
	} {
		extra += fmt.Sprintf("[[role]]\nname = \"net%d\"\nclass = \"net\"\n[role.match]\n%s\n[role.network]\nmethod = \"none\"\n", n+1, rule)
	}
	return rig.Build(context.Background(), rig.GuestOptions{
		Dir: filepath.Join(workDir, "match"), Role: extra, Options: image.Options{Progress: progress},
	})
})

// TestMatch puts NICs before a guest in an order that misleads whoever looks at nothing
// else. net0 has no rule and is to have a MAC; the others match by MAC, by address and by
// ids. A host that sets the MAC of a NIC, as it does of a virtual function, finds the
// role by it, also long after the guest has moved.
func TestMatch(t *testing.T) {
	nic := func(model, slot, mac string) rig.NIC { return rig.NIC{Model: model, Slot: slot, MAC: mac} }
	const (
		other1, other2, other3 = "52:54:00:75:02:71", "52:54:00:75:02:72", "52:54:00:75:02:73"
		plugged1, plugged2     = "52:54:00:75:02:81", "52:54:00:75:02:82"
	)
	g := startAll(t, matchImage, []rig.NIC{
		nic("vmxnet3", "2", other1), nic("e1000", "3", other2), nic("e1000", "4", matchedMAC),
		nic("rtl8139", "5", other3), nic("rtl8139", "6", ownMAC),
	})
	g.served(map[string]string{
		"net0": "0000:00:06.0", "net1": "0000:00:04.0", "net2": "0000:00:05.0", "net3": "0000:00:02.0",
	})
	g.traffic()

	// The one in slot 5 fits two rules; the device of net2 was there before. For net1
	// and net3 there is nothing, though a NIC is left that nobody wants.
	g.move(nic("rtl8139", "2", other1), nic("e1000", "4", ownMAC), nic("vmxnet3", "5", other2))
	g.served(map[string]string{"net0": "0000:00:04.0", "net1": "", "net2": "0000:00:05.0", "net3": ""})
	g.traffic()

	g.plug(nic("e1000", "3", plugged1))
	g.plug(nic("virtio-net-pci", "6", matchedMAC))
	g.served(map[string]string{"net0": "0000:00:04.0", "net1": "0000:00:06.0", "net2": "0000:00:05.0", "net3": ""})
	g.plug(nic("vmxnet3", "8", plugged2))
	g.served(map[string]string{
		"net0": "0000:00:04.0", "net1": "0000:00:06.0", "net2": "0000:00:05.0", "net3": "0000:00:08.0",
	})
	g.unharmed()
}
