// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package inventory

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// q35 is what QEMU 7.2 says of a Q35 with two root ports, shortened: on the source, where
// firmware has numbered the buses, and on a destination that waits.
const (
	source = `[{"bus":0,"slot":0,"function":0,"qdev_id":"","class_info":{"class":1536},"id":{"device":10688,"vendor":32902,"subsystem":4352,"subsystem-vendor":6900}},
		{"bus":0,"slot":2,"function":0,"qdev_id":"port2","class_info":{"class":1540},"id":{"device":12,"vendor":6966},
		 "pci_bridge":{"bus":{"number":0,"secondary":1,"subordinate":1},"devices":[
			{"bus":1,"slot":0,"function":0,"qdev_id":"direct-net0","class_info":{"class":512},"id":{"device":4307,"vendor":32902,"subsystem":0,"subsystem-vendor":32902}}]}},
		{"bus":0,"slot":3,"function":0,"qdev_id":"port3","class_info":{"class":1540},"id":{"device":12,"vendor":6966},
		 "pci_bridge":{"bus":{"number":0,"secondary":2,"subordinate":2},"devices":[]}}]`
	destination = `[{"bus":0,"slot":0,"function":0,"qdev_id":"","class_info":{"class":1536},"id":{"device":10688,"vendor":32902}},
		{"bus":0,"slot":2,"function":0,"qdev_id":"port2","class_info":{"class":1540},"id":{"device":12,"vendor":6966},
		 "pci_bridge":{"bus":{"number":0,"secondary":0,"subordinate":0},"devices":[]}},
		{"bus":0,"slot":3,"function":0,"qdev_id":"port3","class_info":{"class":1540},"id":{"device":12,"vendor":6966},
		 "pci_bridge":{"bus":{"number":0,"secondary":0,"subordinate":0},"devices":[
			{"bus":0,"slot":0,"function":0,"qdev_id":"direct-net0","class_info":{"class":512},"id":{"device":4096,"vendor":6900}}]}}]`
)

func devices(t *testing.T, text string) []Device {
	t.Helper()
	var functions []function
	if err := json.Unmarshal([]byte(text), &functions); err != nil {
		t.Fatal(err)
	}
	return appendBelow(nil, "", functions)
}

func addresses(devices []Device) (out []string) {
	for _, d := range devices {
		out = append(out, d.ID+" "+d.Address)
	}
	return out
}

func TestAddresses(t *testing.T) {
	const host = " 0000:00:00.0"
	for _, tt := range []struct {
		rule string
		of   []Device
		want []string
	}{
		{"a guest has numbered its buses", devices(t, source),
			[]string{host, "port2 0000:00:02.0", "direct-net0 0000:01:00.0", "port3 0000:00:03.0"}},
		{"one that has not arrived has not: then it is the way there", devices(t, destination),
			[]string{host, "port2 0000:00:02.0", "port3 0000:00:03.0", "direct-net0 0000:00:03.0/00.0"}},
		{"it brings the numbers along", Arriving(devices(t, destination), devices(t, source)),
			[]string{host, "port2 0000:00:02.0", "port3 0000:00:03.0", "direct-net0 0000:02:00.0"}},
		{"if they are known", Arriving(devices(t, destination), nil),
			[]string{host, "port2 0000:00:02.0", "port3 0000:00:03.0", "direct-net0 0000:00:03.0/00.0"}},
	} {
		if d := cmp.Diff(tt.want, addresses(tt.of)); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.rule, d)
		}
	}
	d := devices(t, source)[2]
	if d.Vendor != 0x8086 || d.Device != 0x10d3 || d.SubVendor != 0x8086 || d.SubDevice != 0 || d.Class != 0x0200 {
		t.Errorf("the NIC is %+v", d)
	}
}
