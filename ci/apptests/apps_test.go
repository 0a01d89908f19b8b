// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package apptests

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed/capture"
	"github.com/umbra-vm/umbra/ci/testbed/vmtest"
)

var apps = flag.Bool("apps", false, "run programs of Debian's in two guests, for some minutes")

// NICs of the hosts, named by model and slot.
var (
	e1000At2   = rig.NIC{Model: "e1000", Slot: "2"}
	rtl8139At2 = rig.NIC{Model: "rtl8139", Slot: "2"}
	virtioAt5  = rig.NIC{Model: "virtio-net-pci", Slot: "5"}
)

// then is where the guest goes.
var then = []rig.NIC{rtl8139At2, virtioAt5, e1000At2}

// TestPrograms moves a guest whose services are in use by clients that know
// nothing of it, from e1000 to rtl8139, virtio-net and back. No client and no
// service has anything to complain of, what they have counted is right at both
// ends, and on the wire no connection was reset, ended or opened meanwhile.
func TestPrograms(t *testing.T) {
	if !*apps {
		t.Skip("needs minutes and downloads: make test-apps, or the flag -apps")
	}
	ctx := vmtest.Context(t)
	p := start(ctx, t)
	for _, prog := range programs {
		if prog.ready != "" {
			p.atClient.until(t, prog.ready)
		}
	}
	for _, prog := range programs {
		if prog.prepare != nil {
			prog.prepare(t, p)
		}
	}
	idle := p.atClient.open(t, fmt.Sprintf("ssh -tt root@%s sh", serverAddr))
	pid := idle.process(t)

	for _, prog := range programs {
		j, err := p.atClient.start(prog.client)
		if err != nil {
			t.Fatal(err)
		}
		p.jobs = append(p.jobs, j)
	}
	before := p.connected(t, ctx)
	for i, nic := range then {
		if _, err := p.server.Move(ctx, nic); err != nil {
			t.Fatalf("migration to a host with %v: %v", nic, err)
		}
		tl, err := p.server.WaitPassive(ctx, i+2) // the boot is the first
		if err != nil {
			t.Fatal(err)
		}
		if tl.Error != "" || tl.Frames.Dropped != 0 {
			t.Errorf("recovery %d: error %q, %d frames dropped", i+1, tl.Error, tl.Frames.Dropped)
		}
		p.goesOn(t, ctx, before)
	}
	if now := idle.process(t); now != pid {
		t.Errorf("the idle session's shell is process %s, and was %s", now, pid)
	}
	p.unchanged(t, before)

	for i, prog := range programs {
		t.Run(prog.name, func(t *testing.T) {
			out, err := p.jobs[i].wait(ctx)
			if err != nil {
				t.Fatal(err)
			}
			prog.check(t, p, out)
		})
	}
	if err := p.bed.Fault(); err != nil {
		t.Errorf("not the guest's fault: %v", err)
	}
}

// A connection is what the wire has shown of one from the client's guest to the
// server's.
type connection struct{ to, back capture.Flow }

func (c connection) open() bool {
	return c.to.SYN > 0 && c.back.SYN > 0 && c.to.FIN+c.back.FIN+c.to.RST+c.back.RST == 0
}

// bytes is how much data went over the connection. Of iperf3's each carries data one
// way only.
func (c connection) bytes() uint64 { return c.to.Bytes + c.back.Bytes }

func (c connection) String() string {
	return fmt.Sprintf("%s-%s: %d SYN, %d FIN, %d RST", c.to.Src, c.to.Dst, c.to.SYN+c.back.SYN, c.to.FIN+c.back.FIN, c.to.RST+c.back.RST)
}

// connections returns those between the two guests, by the client's port and the
// server's.
func (p *pair) connections() map[[2]uint16]connection {
	all := make(map[[2]uint16]connection)
	for _, f := range p.bed.Flows.All() {
		if key := [2]uint16{f.Src.Port(), f.Dst.Port()}; f.Src.Addr() == clientAddr && f.Dst.Addr() == serverAddr {
			c := all[key]
			c.to = f
			all[key] = c
		}
		if key := [2]uint16{f.Dst.Port(), f.Src.Port()}; f.Src.Addr() == serverAddr && f.Dst.Addr() == clientAddr {
			c := all[key]
			c.back = f
			all[key] = c
		}
	}
	return all
}

// connected waits until every program has the connections that it makes, and data
// has gone over them, and returns all connections that there have been.
func (p *pair) connected(t *testing.T, ctx context.Context) map[[2]uint16]connection {
	t.Helper()
	want := map[uint16]int{sshPort: 1} // the idle session's
	for _, prog := range programs {
		want[prog.port] += prog.connections
	}
	for {
		all, have := p.connections(), make(map[uint16]int)
		for _, c := range all {
			if c.open() && c.bytes() > 0 {
				have[c.to.Dst.Port()]++
			}
		}
		if maps.Equal(have, want) {
			return all
		}
		p.pause(t, ctx, "open connections by port are %v, want %v", have, want)
	}
}

// goesOn waits until both ends have been heard, and more data has gone, on every
// connection that was open before, but for those on which nothing is said.
func (p *pair) goesOn(t *testing.T, ctx context.Context, before map[[2]uint16]connection) {
	t.Helper()
	want := make(map[uint16]int)
	for _, prog := range programs {
		want[prog.port] += prog.connections - prog.quiet
	}
	from := p.connections()
	for {
		now, have := p.connections(), make(map[uint16]int)
		for key, c := range before {
			was, is := from[key], now[key]
			heard := is.to.Segments > was.to.Segments && is.back.Segments > was.back.Segments
			if port := c.to.Dst.Port(); c.open() && heard && is.bytes() > was.bytes() && have[port] < want[port] {
				have[port]++
			}
		}
		if maps.Equal(have, want) {
			return
		}
		p.pause(t, ctx, "connections by port that go on are %v, want %v", have, want)
	}
}

// pause waits a moment for what the message says, as long as the clients are at work.
func (p *pair) pause(t *testing.T, ctx context.Context, format string, args ...any) {
	t.Helper()
	for i, j := range p.jobs {
		if !j.running() {
			out, err := j.wait(ctx)
			t.Errorf("%s has ended, of itself or because this machine is too slow: %v\n%s", programs[i].name, err, out)
			t.Fatalf(format, args...)
		}
	}
	select {
	case <-ctx.Done():
		t.Fatalf(format, args...)
	case <-time.After(rig.Poll):
	}
}

// unchanged checks that no connection was opened, ended or reset since before.
func (p *pair) unchanged(t *testing.T, before map[[2]uint16]connection) {
	t.Helper()
	if n := p.bed.Flows.Overflow(); n > 0 {
		t.Errorf("%d segments were not counted", n)
	}
	for key, now := range p.connections() {
		was, known := before[key]
		switch {
		case !known:
			t.Errorf("a new connection: %v", now)
		case was.open() && !now.open(), was.to.SYN+was.back.SYN != now.to.SYN+now.back.SYN:
			t.Errorf("%v; before the moves it was %v", now, was)
		}
	}
}
