// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package hotplug

import (
	"encoding/json"
	"errors"
	"maps"
	"testing"

	"github.com/umbra-vm/umbra/migrate"
)

// TestDeviceComesBackAsItWas: what was left to QEMU is asked for.
func TestDeviceComesBackAsItWas(t *testing.T) {
	b, ctx := newBoth(t, func(b *both) { b.moved = migrate.ErrMigration })
	b.move.run(ctx)
	for _, want := range []map[string]any{
		{"driver": "e1000", "id": "a", "netdev": "na", "romfile": "", "mac": "52:54:00:00:00:0a", "addr": "2.0", "bus": "pci.0"},
		{"driver": "nvme", "id": "b", "drive": "db", "serial": "s", "addr": "0x1f.1", "bus": "pci.0"},
	} {
		if got := b.src.has()[want["id"].(string)]; !maps.Equal(got, want) {
			t.Errorf("plugged back %v, want %v", got, want)
		}
	}
}

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		option string
		want   string // of device_add, as JSON; "" if it is refused
	}{
		{"e1000,id=a", `{"driver":"e1000","id":"a"}`},
		{"driver=e1000,id=a", `{"driver":"e1000","id":"a"}`},
		{"e1000,id=a,romfile=,addr=0x2.1", `{"addr":"0x2.1","driver":"e1000","id":"a","romfile":""}`},
		{"vfio-pci,id=a,sysfsdev=/sys/x,,y,multifunction", `{"driver":"vfio-pci","id":"a","multifunction":"on","sysfsdev":"/sys/x,y"}`},
		{"nvme,id=a,serial=a=b", `{"driver":"nvme","id":"a","serial":"a=b"}`},
		{`{"driver":"virtio-net-pci","id":"a","vectors":[1,2]}`, `{"driver":"virtio-net-pci","id":"a","vectors":[1,2]}`},
		{"", ""},
		{"e1000", ""},
		{"id=a", ""},
		{"e1000,id=a,id=b", ""},
		{"e1000,id=a,", ""},
		{"e1000,id=a,=2", ""},
		{`{"driver":"e1000","id":7}`, ""},
		{`{"driver":"e1000","id":"a"`, ""},
	} {
		d, err := Parse(tt.option)
		if tt.want == "" {
			if !errors.Is(err, ErrOptions) {
				t.Errorf("Parse(%q) = %v, %v", tt.option, d, err)
			}
			continue
		}
		if err != nil {
			t.Error(err)
			continue
		}
		if got, err := json.Marshal(d.arguments()); err != nil || string(got) != tt.want {
			t.Errorf("Parse(%q) gives %s, %v; want %s", tt.option, got, err, tt.want)
		}
	}
}
