// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/ci/testbed/sntp"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

var clockImage = build("clock", rig.GuestOptions{
	Drivers: []string{"e1000", "virtio_net"}, Witness: pace, Extra: "[ntp]\ndhcp = \"on\"\n",
})

// TestClock boots a guest whose hardware clock is years behind, on a network whose DHCP
// offers an NTP server, and moves it. What its clock has lost in between, as after a long
// move, is had by the server's being ahead from then on. Somebody follows its logs on
// the host that it leaves.
func TestClock(t *testing.T) {
	umbra, err := command()
	if err != nil {
		t.Fatal(err)
	}
	g := start(t, clockImage, e1000At2, extra("-rtc", "base=2020-02-02T02:02:02"), func(o *setup) { o.clock = true })
	first := g.waitConsole("the clock is set, by .* server=" + testbed.Subnet4.Addr().String())
	follower := exec.CommandContext(g.ctx, umbra, "logs", g.Host.Machine.Ctl, "ntpd", "-f", "--timeout", "1m")
	var followed, complaint strings.Builder
	follower.Stdout, follower.Stderr = &followed, &complaint
	if err := follower.Start(); err != nil {
		t.Fatal(err)
	}
	g.wantClock(0) // while somebody follows
	g.untilSlewed()

	const lost = 90 * time.Second
	g.clock.Shift(lost)
	g.move(virtioAt5)
	g.waitConsole("the guest has moved: the clock is looked at")
	second := g.waitConsole(`the clock is set, by 1m\d`)
	g.wantClock(lost)
	t.Logf("%s\n%s", first, second)

	var ended *exec.ExitError
	if err := follower.Wait(); !errors.As(err, &ended) || !strings.Contains(complaint.String(), "the machine has ended; if its guest was moved") {
		t.Errorf("the follower on the old host ended with %v: %s", err, complaint.String())
	}
	out, err := exec.CommandContext(g.ctx, umbra, "logs", g.Host.Machine.Ctl, "ntpd").Output()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(logged(followed.String())); n != 1 {
		t.Errorf("on the old host the clock was set %d times, want once:\n%s", n, followed.String())
	}
	if n := len(logged(string(out))); n < 2 {
		t.Errorf("on the new host the clock was set %d times, want the one before the move too:\n%s", n, out)
	}
	g.lossless(g.recovered(1))
	g.traffic()
	g.unharmed()
}

// logged returns the lines of ntpd that say that the clock was set by much.
func logged(text string) []string {
	return regexp.MustCompile(`set, by \d+[hm]\d`).FindAllString(text, -1)
}

// wantClock compares the guest's clock with this machine's, from which it is to be off.
func (g *guest) wantClock(off time.Duration) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.ctx, callTimeout)
	defer cancel()
	var c ctl.Clock
	before := time.Now()
	if err := g.Call(ctx, ctl.CmdClock, nil, &c); err != nil {
		g.t.Fatal(err)
	}
	after := time.Now()
	const within = time.Second // what an answer that takes as long as it may can be wrong by, and more
	if guest := time.Unix(0, c.Realtime).Add(-off); guest.Before(before.Add(-within)) || guest.After(after.Add(within)) {
		g.t.Errorf("the guest has %v, this machine has %v to %v", guest, before, after)
	}
}

// untilSlewed waits until the guest's clock is so good that it is no longer set: from
// then on a first answer that is far off is not believed.
func (g *guest) untilSlewed() {
	g.t.Helper()
	g.until("the server has been asked again", func() error {
		if n := g.clock.Answers(); n < 2 {
			return fmt.Errorf("%d answers", n)
		}
		return nil
	})
}

// serveTime starts an NTP server on the peer.
func (g *guest) serveTime() {
	g.t.Helper()
	conn, err := g.bed.Peer.ListenPacket(netip.AddrPortFrom(testbed.Subnet4.Addr(), sntp.Port))
	if err != nil {
		g.t.Fatal(err)
	}
	g.clock = sntp.Serve(conn)
	g.t.Cleanup(func() { g.clock.Close() })
}
