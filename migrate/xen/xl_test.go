// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xen

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/umbra-vm/umbra/drivers/pci"
)

// As xl 4.17 prints it (tools/xl/xl_info.c, xl_pci.c and libxl_types.idl).
const (
	someInfo = `host                   : xen-a
release                : 6.1.0-32-amd64
xen_major              : 4
xen_minor              : 17
xen_extra              : .5
xen_version            : 4.17.5
cpu_mhz                : 2500.011
virt_caps              : pv hvm hvm_directio pv_directio hap iommu_hap_pt_share
total_memory           : 3071
free_memory            : 1743
xen_commandline        : console=com1 com1=115200,8n1 dom0_mem=1200M,max:1200M
`
	someList = `Name                                        ID   Mem VCPUs	State	Time(s)
Domain-0                                     0  1200     1     r-----      33.1
guest0                                       1   192     1     -b----       9.2
a guest                                      7   192     1     --p---       9.2
`
	someConfig = `{
    "c_info": {"type": "hvm", "name": "guest1", "uuid": "9e1f"},
    "b_info": {
        "max_memkb": 196608, "target_memkb": 196608, "shadow_memkb": 2816,
        "extra_hvm": ["-chardev", "socket,id=ctl,server=on,wait=off,path=/run/xen/umbra-guest1.ctl", "-device", "virtio-serial"]
    },
    "pcidevs": [{"dev": 5, "vdevfn": 48}]
}`
	someSysfs = "0000:00:05.0 0x10ec 0x8139 0x1af4 0x1100 0x020000 0 pciback\n"
)

// someSpace is what od prints of the configuration space of a device with a line, whose
// MSI-X is enabled, with other bytes in their places.
func someSpace(other map[int]byte) string {
	b := make([]byte, pci.ConfigSize)
	copy(b, []byte{0x86, 0x80, 0xd3, 0x10})
	for at, v := range map[int]byte{0x06: 0x10, 0x34: 0x40, 0x3d: 1, 0x40: 0x11, 0x43: 0x80} {
		b[at] = v
	}
	for at, v := range other {
		b[at] = v
	}
	return fmt.Sprintf(" % x\n % x\n", b[:16], b[16:])
}

// withoutMSIX makes someSpace one of a device that uses its line.
var withoutMSIX = map[int]byte{0x43: 0}

func TestParseLine(t *testing.T) {
	for _, tt := range []struct {
		rule string
		text string
		want bool
	}{
		{"message interrupts", someSpace(nil), false},
		{"none, but a line", someSpace(withoutMSIX), true},
		{"a line that is disabled", someSpace(map[int]byte{0x43: 0, 0x05: 4}), false},
		{"no line, as of a virtual function", someSpace(map[int]byte{0x43: 0, 0x3d: 0}), false},
		{"a device that is gone", strings.Repeat(" ff", pci.ConfigSize), false},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			if got, err := parseLine(tt.text); err != nil || got != tt.want {
				t.Errorf("%v, %v, want %v", got, err, tt.want)
			}
		})
	}
	for _, text := range []string{"", "86 80", "no", someSpace(nil)[:60]} {
		if _, err := parseLine(text); !errors.Is(err, ErrOutput) {
			t.Errorf("%q: %v, want ErrOutput", text, err)
		}
	}
}

func TestParseInfo(t *testing.T) {
	got, err := parseInfo(someInfo)
	want := info{major: 4, minor: 17, version: "4.17.5", freeMB: 1743}
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, key := range []string{"xen_major", "xen_minor", "free_memory"} {
		if _, err := parseInfo(strings.Replace(someInfo, key, "x", 1)); !errors.Is(err, ErrOutput) || !strings.Contains(err.Error(), key) {
			t.Errorf("without %s: %v", key, err)
		}
	}
}

func TestParseList(t *testing.T) {
	got, err := parseList(someList)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]state{"Domain-0": {0, "r-----"}, "guest0": {1, "-b----"}, "a guest": {7, "--p---"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(state{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestStateOfADomain(t *testing.T) {
	for _, tt := range []struct {
		flags, is    string
		runs, paused bool
	}{
		{"r-----", "running", true, false},
		{"-b----", "running", true, false},
		{"------", "running", true, false}, // waits for a processor
		{"--p---", "paused", false, true},
		{"-bp---", "paused", false, true},
		{"--ps--", "shut down or suspended", false, false},
		{"---sc-", "crashed", false, false},
		{"-----d", "dying", false, false},
	} {
		s := state{1, tt.flags}
		if s.runs() != tt.runs || s.paused() != tt.paused || s.describe() != tt.is {
			t.Errorf("%s: runs %v, paused %v, %s", tt.flags, s.runs(), s.paused(), s.describe())
		}
	}
}

func TestParseConfig(t *testing.T) {
	c, err := parseConfig([]byte("WARNING: a word\n" + someConfig))
	if err != nil {
		t.Fatal(err)
	}
	if c.ctl() != "/run/xen/umbra-guest1.ctl" || c.neededMB() != 195 || c.PCI[0].String() != "0000:00:05.0" || c.guestAddress(0) != "0000:00:06.0" {
		t.Errorf("%+v", c)
	}
	c.PCI = []passed{{Dev: 5}, {Dev: 6}}
	if c.guestAddress(0) >= c.guestAddress(1) {
		t.Error("devices whose slots are left to Xen do not keep their order")
	}
}

// somePVConfig is of a guest that has its port as a channel, behind one that is not used.
const somePVConfig = `{
    "c_info": {"type": "pv", "name": "guest1"},
    "b_info": {"max_memkb": 196608, "migrate_devices": "True"},
    "pcidevs": [{"dev": 5, "vdevfn": 48}, {"dev": 6}],
    "channels": [
        {"devid": 0, "name": "org.umbra.ctl.unused", "connection.pty": {}},
        {"devid": 1, "name": "org.umbra.ctl", "connection.socket": {"path": "/run/xen/umbra-guest1.ctl"}}
    ]
}`

func TestParseConfigOfAParavirtualGuest(t *testing.T) {
	c, err := parseConfig([]byte(somePVConfig))
	if err != nil {
		t.Fatal(err)
	}
	if c.ctl() != "/run/xen/umbra-guest1.ctl" || c.guestAddress(0) != "0000:00:00.0" || c.guestAddress(1) != "0000:00:01.0" {
		t.Errorf("port %q, devices at %s and %s", c.ctl(), c.guestAddress(0), c.guestAddress(1))
	}
}

func FuzzOutput(f *testing.F) {
	for _, s := range []string{someInfo, someList, someConfig, somePVConfig, `[{"domid": 1, "config": ` + someConfig + `}]`, someSysfs, someSpace(nil), "Vdev Device\n06.0 0000:00:05.0\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if i, err := parseInfo(s); err == nil && (i.freeMB < 0 || i.major < 0) {
			t.Errorf("%+v", i)
		}
		if domains, err := parseList(s); err == nil {
			for name, d := range domains {
				if name == "" || len(d.flags) != 6 {
					t.Errorf("%q: %+v", name, d)
				}
			}
		}
		for _, parse := range []func([]byte) (config, error){parseConfig, parseDomain} {
			if c, err := parse([]byte(s)); err == nil && (c.Create.Name == "" || c.Build.MaxMemKB <= 0) {
				t.Errorf("%+v", c)
			}
		}
		_, _ = parseLine(s)
		if vdevs, err := parseAttached(s); err == nil {
			for _, v := range vdevs {
				if len(v.guest) != len("0000:00:06.0") || strings.ContainsAny(v.host, " ;$`'") {
					t.Errorf("%q", v)
				}
			}
		}
		parseAssignable(s)
		if found, err := parseIDs(s); err == nil && len(found) > strings.Count(s, "\n")+1 {
			t.Errorf("%+v", found)
		}
	})
}
