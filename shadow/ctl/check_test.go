// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package ctl

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseCheckDevice(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       CheckDevice
		says       string // what the error names
	}{
		{"ids and address", "8086:10d3@0000:00:05.0", CheckDevice{Address: "0000:00:05.0", IDs: "8086:10d3"}, ""},
		{"as lspci has them", "8086:10D3@00:05.0", CheckDevice{Address: "0000:00:05.0", IDs: "8086:10d3"}, ""},
		{"all that there is", "1af4:1000@0000:00:05.0,mac=52:54:00:00:00:0A,subsystem=1af4:0001,class=020000",
			CheckDevice{"0000:00:05.0", "1af4:1000", "1af4:0001", "020000", "52:54:00:00:00:0a"}, ""},
		{"a front end of Xen", "vif-0,mac=00:16:3e:00:00:01", CheckDevice{Address: "vif-0", MAC: "00:16:3e:00:00:01"}, ""},
		{"no address", "8086:10d3", CheckDevice{}, `"8086:10d3"`},
		{"ids that are none", "8086@0000:00:05.0", CheckDevice{}, `"8086"`},
		{"a slot beyond the bus", "8086:10d3@0000:00:25.0", CheckDevice{}, `"0000:00:25.0"`},
		{"a MAC that is none", "8086:10d3@00:05.0,mac=52:54", CheckDevice{}, `"mac=52:54"`},
		{"a class that is a name", "8086:10d3@00:05.0,class=net", CheckDevice{}, `"class=net"`},
		{"a key twice", "8086:10d3@00:05.0,class=0200,class=0200", CheckDevice{}, `"class=0200"`},
		{"a key that does not exist", "8086:10d3@00:05.0,driver=e1000e", CheckDevice{}, `"driver=e1000e"`},
		{"nothing", "", CheckDevice{}, `""`},
	} {
		got, err := ParseCheckDevice(tt.text)
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
		if (tt.says == "") != (err == nil) || err != nil && (!errors.Is(err, ErrDevice) || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%s: error %v, want one that says %s", tt.name, err, tt.says)
		}
	}
}

func TestReadCheckDevices(t *testing.T) {
	got, err := ReadCheckDevices(strings.NewReader("# host B\n\n8086:10d3@00:05.0 # e1000e\n vif-1\n"))
	want := []CheckDevice{{Address: "0000:00:05.0", IDs: "8086:10d3"}, {Address: "vif-1"}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	if _, err := ReadCheckDevices(strings.NewReader("vif-0\n\nvif")); !errors.Is(err, ErrDevice) || !strings.Contains(err.Error(), "line 3") {
		t.Errorf("error %v does not name line 3", err)
	}
}

// What is read is written so that it is read as the same.
func FuzzParseCheckDevice(f *testing.F) {
	for _, s := range []string{"8086:10d3@0000:00:05.0", "8086:10D3@00:05.0,mac=52:54:00:00:00:0a", "vif-0", "@", "1af4:1000@00:05.0,subsystem=1af4:0001,class=0200", ",,="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseCheckDevice(text)
		if err != nil {
			if !errors.Is(err, ErrDevice) || d != (CheckDevice{}) {
				t.Errorf("%q: %+v, %v", text, d, err)
			}
			return
		}
		again := d.Address
		if d.IDs != "" {
			again = d.IDs + "@" + d.Address
		}
		for _, o := range []struct{ key, value string }{{"mac", d.MAC}, {"subsystem", d.Subsystem}, {"class", d.Class}} {
			if o.value != "" {
				again += "," + o.key + "=" + o.value
			}
		}
		if e, err := ParseCheckDevice(again); err != nil || e != d {
			t.Errorf("%q is %+v, and %q is %+v, %v", text, d, again, e, err)
		}
	})
}

func TestRenderCheck(t *testing.T) {
	for _, tt := range []struct {
		name string
		r    CheckReport
		want string
	}{
		{"what is known, and what is not", CheckReport{[]Forecast{
			{Role: "net0", Verdict: VerdictTaken, From: "e1000 at 0000:00:02.0", Device: "0000:00:05.0", IDs: "10ec:8139",
				Drivers: []string{"8139cp"}, Driven: true, Ways: []string{WayUnprepared, WayUnplug}, MAC: MACGiven, Standby: "0000:00:06.0",
				Deferred: []Deferred{{"net.mtu=9000", "it takes 1500"}}, Gap: &Gap{GapMeasured, 2, 1700, 2140}},
			{Role: "net1", Verdict: VerdictTaken, Device: "0000:00:07.0", IDs: "10ec:8138", Drivers: []string{"8139cp", "8139too"},
				Ways: []string{WayUnprepared, WayUnplug}, MAC: MACUnknown, Unknown: []string{"net.mtu=9000", "net.ring.rx=64"},
				Reason: "the device at 0000:00:03.0 (dead:beef) has no driver in this image", Gap: &Gap{GapPublished, 0, 2000, 4000}},
		}}, `
net0: 8139cp at 0000:00:05.0 (10ec:8139)
  now       e1000 at 0000:00:02.0
  standby   at 0000:00:06.0
  way       unprepared, or unplug
  MAC       the role's; the driver takes it
  deferred  net.mtu=9000 (it takes 1500)
  gap       1.7 to 2.1 s, measured by this guest in 2 recoveries
net1: 8139cp or 8139too at 0000:00:07.0 (10ec:8138)
  note      the device at 0000:00:03.0 (dead:beef) has no driver in this image
  driver    in the image; it has not driven such a device in this guest
  way       unprepared, or unplug
  MAC       unknown until the driver is asked to take the role's
  unknown   until probed: net.mtu=9000, net.ring.rx=64
  gap       2.0 to 4.0 s in umbra's README (emulated NICs, without KVM); this guest has not measured it
`},
		{"refusals come with their reason", CheckReport{[]Forecast{
			{Role: "net0", Verdict: VerdictNoDriver, From: "e1000 at 0000:00:02.0", Reason: "the device at 0000:00:05.0 (dead:beef) has no driver in this image"},
			{Role: "net1", Verdict: VerdictKept, Reason: "it would wait", Ways: []string{WayUnplug}},
		}}, `
net0: REFUSED: the device at 0000:00:05.0 (dead:beef) has no driver in this image
  now       e1000 at 0000:00:02.0
net1: REFUSED: it would wait
  way       unplug
`},
		{"the other ways of a role", CheckReport{[]Forecast{
			{Role: "net0", Verdict: VerdictStandby, Device: "0000:00:06.0", Drivers: []string{"virtio_net"}, Gap: &Gap{GapMeasured, 1, 300, 300}},
			{Role: "net1", Verdict: VerdictStays, Device: "0000:00:07.0", Drivers: []string{"virtio_net"}},
			{Role: "net2", Verdict: VerdictLater},
			{Role: "net3", Verdict: VerdictTaken, Device: "vif-0", IDs: "", Drivers: []string{"xen_netfront"}, Driven: true, MAC: MACRefused},
		}}, `
net0: goes over its standby, virtio_net at 0000:00:06.0
  gap       0.3 s, measured by this guest in 1 recovery
net1: virtio_net at 0000:00:07.0 is moved with the guest
net2: waits for a device that is plugged in later
net3: xen_netfront at vif-0
  MAC       the device's own: the driver takes no other
`},
		{"a guest cannot write to its host's terminal", CheckReport{[]Forecast{{Role: "net0", Verdict: VerdictNoDevice, Reason: "\x1b[2J"}}}, `
net0: REFUSED: \x1b[2J
`},
		{"no roles are said so", CheckReport{}, "no roles\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b strings.Builder
			if err := RenderCheck(&b, tt.r); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(strings.TrimPrefix(tt.want, "\n"), b.String()); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}
