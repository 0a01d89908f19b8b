// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netshadow

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/shadow"
)

// impatient reports whether old's driver must let go before the proxy is changed
// in any way. virtio_net sends filters and addresses to the device through a ring
// and waits for its answer under the kernel's RTNL lock, without end when there
// is no device (virtio_net.c, virtnet_send_command, up to Linux 6.9). Every
// change of the bond's active port sends some, and so does setting the
// interface down; unregistering it closes it first, and a closed interface is
// left alone (net/core/dev.c, __dev_set_rx_mode).
func impatient(old shadow.Old) bool {
	return onVirtio(old.Device) && old.Verdict != drivers.Alive
}

// stuck returns an error that matches shadow.ErrKept if old's driver cannot let go of it.
func (s *netShadow) stuck(old shadow.Old) error {
	if impatient(old) && old.Verdict != drivers.Absent && s.proxy.filtersVLANs() {
		return fmt.Errorf("virtio_net would wait without end for the device to drop VLAN filters, as its slot is taken by another: %w", shadow.ErrKept)
	}
	return nil
}

// Keeps returns the error with which Activate would leave dev to its driver if another
// device were in its place.
func (s *netShadow) Keeps(dev drivers.Device) error {
	return s.stuck(shadow.Old{Device: dev, Verdict: drivers.Replaced})
}

// letGo makes the driver of a virtio device let go of it. To remove the function
// that offers the device takes longer, most of it to ask ACPI for the routing of
// interrupts, and is left for later where it can be.
func (s *netShadow) letGo(ctx context.Context, old shadow.Old) error {
	if old.Verdict == drivers.Absent && s.proxy.filtersVLANs() {
		// Only a removal tells the driver that nobody answers any more
		// (virtio_pci_common.c, virtio_pci_remove).
		return old.Remove(ctx)
	}
	return old.LetGo(ctx)
}

// filtersVLANs reports whether the kernel takes VLAN filters away from an
// interface that closes or leaves the proxy: of VLAN 0, which every interface is
// given that opens while the kernel has VLANs (net/8021q/vlan.c, vlan_device_event),
// or of those that a bridge gives to its ports, also if it filters none
// (net/bridge/br_vlan.c, nbp_vlan_init).
func (p proxy) filtersVLANs() bool {
	for _, file := range []string{"/sys/module/8021q", filepath.Join("/sys/class/net", p.name, "brport")} {
		if _, err := os.Stat(file); err == nil {
			return true
		}
	}
	return false
}

// Feature bits of virtio, as the driver has agreed on them with the device (virtio
// 1.1, 5.1.3 and 6).
const (
	featureSetMAC = 23 // VIRTIO_NET_F_CTRL_MAC_ADDR
	featureModern = 32 // VIRTIO_F_VERSION_1
)

// deaf reports whether a virtio device receives for its own MAC only, although its
// driver takes any: the device has no command for it, and the configuration of a
// modern one is not for the driver to write to (virtio_net.c, virtnet_set_mac_address).
func deaf(dev drivers.Device) bool {
	i := slices.IndexFunc(dev.Children, func(d drivers.Device) bool { return d.Bus == "virtio" })
	if i < 0 {
		return false
	}
	bits, err := os.ReadFile(filepath.Join(dev.Children[i].Path, "features"))
	return err == nil && len(bits) > featureModern && bits[featureSetMAC] == '0' && bits[featureModern] == '1'
}

func onVirtio(dev drivers.Device) bool {
	return slices.ContainsFunc(dev.Children, func(d drivers.Device) bool { return d.Bus == "virtio" })
}
