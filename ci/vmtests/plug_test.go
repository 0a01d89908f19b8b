// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"fmt"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/image/machine"
)

// directID is the qdev id of the guest's NIC.
const directID = machine.Direct + rig.Role

// plug gives a running guest a NIC, beside those that it may have.
func (g *guest) plug(nic rig.NIC) {
	g.t.Helper()
	g.plugs++
	id := directID
	if g.NICs[0].Model != "" {
		id += fmt.Sprintf("-%d", g.plugs)
	}
	_, port, err := g.bed.Plug(fmt.Sprintf("plugged-%d", g.plugs))
	if err != nil {
		g.t.Fatal(err)
	}
	if nic.MAC == "" {
		nic.MAC = rig.GuestMAC[:len(rig.GuestMAC)-2] + "7f"
	}
	g.execute("netdev_add", map[string]any{
		"type": "stream", "id": machine.Netdev(id), "server": false,
		"addr": map[string]any{"type": "unix", "path": port.Path()},
	})
	device := map[string]any{
		"driver": nic.Model, "id": id, "netdev": machine.Netdev(id),
		"mac": nic.MAC, "romfile": "",
	}
	bus, address := g.Place(nic.Slot)
	if device["addr"] = address; bus != "" {
		device["bus"] = bus
	}
	g.execute("device_add", device)
	if id == directID {
		g.NICs = append([]rig.NIC{nic}, g.NICs[1:]...)
	}
}

// unplug takes the guest's NIC away, as a polite host does: the guest is asked
// and lets go.
func (g *guest) unplug() {
	g.t.Helper()
	events := g.Host.QMP.Subscribe("DEVICE_DELETED")
	defer events.Close()
	g.execute("device_del", map[string]any{"id": directID})
	for {
		e, err := events.Next(g.ctx)
		if err != nil {
			g.t.Fatalf("the guest does not let go of its NIC: %v", err)
		}
		if e.Text("device") == directID {
			break
		}
	}
	g.execute("netdev_del", map[string]any{"id": machine.Netdev(directID)})
	g.NICs = append([]rig.NIC{noNIC}, g.NICs[1:]...)
}

func (g *guest) execute(command string, args any) {
	g.t.Helper()
	if err := g.Host.QMP.Execute(g.ctx, command, args, nil); err != nil {
		g.t.Fatal(fmt.Errorf("%s: %w", command, err))
	}
}
