// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package apptests

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/ci/rig"
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
	ctx := vmtest.Context(t)
	p, before := work(ctx, t, "")
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
		if err := p.goesOn(ctx, before); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.idles(ctx); err != nil {
		t.Error(err)
	}
	for _, change := range p.connections().changes(before) {
		t.Error(change)
	}
	for i, prog := range programs {
		t.Run(prog.name, func(t *testing.T) {
			done, err := p.result(ctx, i)
			if err != nil {
				t.Fatal(err)
			}
			t.Log(done)
		})
	}
	p.fair(t)
}

// Times of TestControl. Who has not spoken by then has nothing good to say.
const (
	standstill = 20 * time.Second          // the wire, after the driver was loaded anew
	overtime   = 2 * seconds * time.Second // the clients, after their start
)

var (
	errStill = errors.New("it stands still")
	errOver  = errors.New("it is still at work long after it should have been done")
)

// TestControl moves the guest once without the shadow: its driver is loaded anew, and
// that is all. Every witness of TestPrograms then has something to complain of, or hangs.
func TestControl(t *testing.T) {
	ctx := vmtest.Context(t)
	p, before := work(ctx, t, "umbra.shadow=off")
	over, cancel := context.WithTimeoutCause(ctx, overtime, errOver)
	defer cancel()
	if _, err := p.server.Move(ctx, then[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := p.server.WaitPassive(ctx, 2); err != nil {
		t.Fatal(err)
	}
	from := p.connections()
	still, cancel := context.WithTimeoutCause(ctx, standstill, errStill)
	defer cancel()
	err := p.idles(still)
	if err == nil {
		t.Error("the idle session goes on")
	}
	t.Logf("the idle session: %v", err)
	<-still.Done()
	if n := p.connections().goOn(before, from); len(n) > 0 {
		t.Errorf("connections go on, by port: %v", n)
	}
	for i, prog := range programs {
		t.Run(prog.name, func(t *testing.T) {
			done, err := p.result(over, i)
			if err == nil {
				t.Errorf("it says that all is well: %s", done)
			}
			t.Log(err)
		})
	}
	p.fair(t)
}

// work boots both guests, the one that moves with words added to its command line, has
// all programs at work, and returns the connections that there then are.
func work(ctx context.Context, t *testing.T, cmdline string) (*pair, connections) {
	t.Helper()
	if !*apps {
		t.Skip("needs minutes and downloads: make test-apps, or the flag -apps")
	}
	p := start(ctx, t, cmdline)
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
	p.idle = p.atClient.open(t, fmt.Sprintf("ssh -tt root@%s sh", serverAddr))
	var err error
	if p.idlePID, err = p.idle.process(ctx); err != nil {
		t.Fatal(err)
	}
	for _, prog := range programs {
		j, err := p.atClient.start(prog.client)
		if err != nil {
			t.Fatal(err)
		}
		p.jobs = append(p.jobs, j)
	}
	before, err := p.connected(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return p, before
}

// connections returns those between the two guests.
func (p *pair) connections() connections { return pairUp(p.bed.Flows.All()) }

// connected waits until every program has the connections that it makes, and data
// has gone over them, and returns all connections that there have been.
func (p *pair) connected(ctx context.Context) (connections, error) {
	want := map[uint16]int{sshPort: 1} // the idle session's
	for _, prog := range programs {
		want[prog.port] += prog.connections
	}
	for {
		all := p.connections()
		have := all.inUse()
		if maps.Equal(have, want) {
			return all, nil
		}
		if err := p.pause(ctx); err != nil {
			return nil, fmt.Errorf("open connections by port are %v, want %v: %w", have, want, err)
		}
	}
}

// goesOn waits until both ends have been heard, and more data has gone, on every
// connection that was open before, but for those on which nothing is said.
func (p *pair) goesOn(ctx context.Context, before connections) error {
	want := make(map[uint16]int)
	for _, prog := range programs {
		want[prog.port] += prog.connections - prog.quiet
	}
	from := p.connections()
	for {
		have := p.connections().goOn(before, from)
		if enough(have, want) {
			return nil
		}
		if err := p.pause(ctx); err != nil {
			return fmt.Errorf("connections by port that go on are %v, want %v: %w", have, want, err)
		}
	}
}

// pause waits a moment, as long as the clients are at work.
func (p *pair) pause(ctx context.Context) error {
	for i, j := range p.jobs {
		if !j.running() {
			out, err := j.wait(ctx)
			return fmt.Errorf("%s has ended, of itself or because this machine is too slow: %w\n%s",
				programs[i].name, cmp.Or(err, errEnded), out)
		}
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(rig.Poll):
		return nil
	}
}

// errEnded is of a client that has ended and has no complaint.
var errEnded = errors.New("it has no complaint")

// idles checks that the idle session is still there, with the same shell.
func (p *pair) idles(ctx context.Context) error {
	pid, err := p.idle.process(ctx)
	if err == nil && pid != p.idlePID {
		err = fmt.Errorf("the shell is process %s, and was %s", pid, p.idlePID)
	}
	return err
}

// result waits for the client of the n-th program, and tells how much was done, or what
// is not as it should be.
func (p *pair) result(ctx context.Context, n int) (done string, err error) {
	out, err := p.jobs[n].wait(ctx)
	if err != nil {
		return "", err
	}
	return programs[n].check(p, out)
}

// fair fails a test whose network has lost something.
func (p *pair) fair(t *testing.T) {
	t.Helper()
	if err := p.bed.Fault(); err != nil {
		t.Errorf("not the guest's fault: %v", err)
	}
	if n := p.bed.Flows.Overflow(); n > 0 {
		t.Errorf("%d segments were not counted", n)
	}
}
