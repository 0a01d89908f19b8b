// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

//go:build guest

package settings

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/safchain/ethtool"

	"github.com/umbra-vm/umbra/shadow/oplog"
)

// TestIntegrationSnapshot compares what is read by netlink with what the old
// interfaces say.
func TestIntegrationSnapshot(t *testing.T) {
	c := open(t)
	for _, nic := range nics(t) {
		t.Run(driver(t, nic), func(t *testing.T) {
			mustRun(t, "ip", "link", "set", nic, "up")
			waitCarrier(t, nic)
			got, err := c.Snapshot(t.Context(), nic)
			if err != nil {
				t.Fatal(err)
			}
			for key, file := range map[string]string{keyMTU: "mtu", keyMAC: "address", keyTxQueueLen: "tx_queue_len"} {
				b, err := os.ReadFile(filepath.Join("/sys/class/net", nic, file))
				if err != nil {
					t.Fatal(err)
				}
				if want := strings.TrimSpace(string(b)); got[key] != want {
					t.Errorf("%s is %q, sysfs says %q", key, got[key], want)
				}
			}
			err = byIoctl(func(e *ethtool.Ethtool) error {
				features, err := e.FeaturesWithState(nic)
				if err != nil {
					return err
				}
				for name, f := range features {
					value, ok := got[featurePrefix+name]
					if want := f.Available && !f.NeverChanged; ok != want {
						t.Errorf("feature %s can be changed: %v, the ioctl says %v", name, ok, want)
					} else if ok && value != onOff(f.Requested) {
						t.Errorf("feature %s is %s, the ioctl says %v", name, value, f.Requested)
					}
				}
				if r, err := e.GetRing(nic); err == nil && got["net.ring.rx"] != formatUint32(r.RxPending) {
					t.Errorf("rx ring is %q, the ioctl says %d", got["net.ring.rx"], r.RxPending)
				}
				if p, err := e.GetPause(nic); err == nil && got[keyPauseAuto] != onOff(p.Autoneg != 0) {
					t.Errorf("pause autoneg is %q, the ioctl says %d", got[keyPauseAuto], p.Autoneg)
				}
				l, err := e.GetLinkSettings(nic)
				if err != nil {
					return err
				}
				if got[keyLinkAuto] != onOff(l.Autoneg != 0) {
					t.Errorf("autoneg is %q, the ioctl says %d", got[keyLinkAuto], l.Autoneg)
				}
				if modes, ok := got[keyLinkModes]; ok && len(strings.Split(modes, ",")) != len(l.AdvertisingLinkModes) {
					t.Errorf("advertised are %s, the ioctl says %v", modes, l.AdvertisingLinkModes)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			t.Log(got)
		})
	}
}

// TestIntegrationWatch makes every change on two NICs that can do it, if there are
// two, and sees it announced, and recorded as exactly the operations that it is.
func TestIntegrationWatch(t *testing.T) {
	c := open(t)
	worked := make(map[string]int)
	for _, nic := range nics(t) {
		for _, change := range changes {
			if worked[change.name] == 2 {
				continue // a link takes seconds to come back from many of them
			}
			t.Run(driver(t, nic)+"/"+change.name, func(t *testing.T) {
				mustRun(t, "ip", "link", "set", nic, "up")
				waitCarrier(t, nic)
				w, baseline := follow(t, c, nic, Both)
				defer restore(t, c, nic, baseline)
				if err := change.make(nic); err != nil {
					t.Logf("not here: %v", err)
					return
				}
				if missing := effect(t, c, nic, baseline, change.want); len(missing) > 0 {
					t.Logf("not here: no effect on %q", missing)
					return
				}
				worked[change.name]++
				reread(t, w, change.want)
				got := awaitOps(t, w, baseline, change.want)
				// Drivers change related settings on their own.
				if extra := without(got, change.want); len(extra) > 0 {
					t.Logf("with it came %q", extra)
				}
				snapshot, err := c.Snapshot(t.Context(), nic)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(lines(Ops(baseline, snapshot)), got); diff != "" {
					t.Errorf("the watcher differs from a snapshot (-snapshot +watcher)\n%s", diff)
				}
			})
		}
	}
	for _, change := range changes {
		if worked[change.name] == 0 {
			t.Errorf("%s worked on no NIC: it is not tested", change.name)
		}
	}
}

// reread makes w read what is not announced, as its user does when he hears of it in
// another way.
func reread(t *testing.T, w *Watcher, want []string) {
	t.Helper()
	for _, op := range ops(t, want...) {
		o, ok := lookup(op.Key)
		if !ok {
			t.Fatalf("%s is not in the table", op.Key)
		}
		var err error
		switch o.Seen {
		case Call:
			err = w.Look(t.Context())
		case Memory:
			_, err = w.Sync(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// awaitOps receives changes until the operations that follow from them include
// want, and returns them.
func awaitOps(t *testing.T, w *Watcher, baseline Values, want []string) []string {
	t.Helper()
	timeout := time.After(patience)
	var got []string
	for {
		select {
		case change, ok := <-w.Changes():
			if !ok {
				t.Fatalf("the watcher ended: %v", w.Err())
			}
			got = lines(Ops(baseline, change.Values))
		case <-timeout:
			t.Fatalf("want %q among the operations, have %q", want, got)
		}
		if len(without(want, got)) == 0 {
			return got
		}
	}
}

// effect waits until a snapshot has the operations, and returns those that it
// still lacks after a while; where they are of the link that is as long as a link
// takes to come back, seconds on an e1000.
func effect(t *testing.T, c *Client, nic string, baseline Values, want []string) (missing []string) {
	t.Helper()
	wait := patience / 10
	if slices.ContainsFunc(want, func(op string) bool { return strings.HasPrefix(op, "net.link.") }) {
		wait = patience / 2
	}
	for end := time.Now().Add(wait); ; time.Sleep(50 * time.Millisecond) {
		now, err := c.Snapshot(t.Context(), nic)
		if err != nil {
			t.Fatal(err)
		}
		missing = without(want, lines(Ops(baseline, now)))
		if len(missing) == 0 || time.Now().After(end) {
			return missing
		}
	}
}

// without returns the lines of a that are not in b.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(l string) bool { return slices.Contains(b, l) })
}

// TestIntegrationSync asks for a feature that cannot be in effect: it is not
// announced, and must be in what the kernel remembers.
func TestIntegrationSync(t *testing.T) {
	c := open(t)
	for _, nic := range nics(t) {
		t.Run(driver(t, nic), func(t *testing.T) {
			mustRun(t, "ip", "link", "set", nic, "up")
			waitCarrier(t, nic)
			original, err := c.Snapshot(t.Context(), nic)
			if err != nil {
				t.Fatal(err)
			}
			defer restore(t, c, nic, original)
			// Without scatter-gather there is no segmentation in effect,
			// whatever was asked for (netdev_fix_features).
			sg := featurePrefix + "tx-scatter-gather"
			if _, err := c.Apply(t.Context(), nic, []oplog.Op{oplog.Set(sg, "off")}, AfterOpen); err != nil {
				t.Fatal(err)
			}
			w, baseline := follow(t, c, nic, Both)
			if err := w.Pause(t.Context()); err != nil {
				t.Fatal(err)
			}
			// ethtool fails where a wish has no effect; what counts is
			// that the kernel took it.
			run("ethtool", "-K", nic, "tx-generic-segmentation", "off")
			want := []string{"net.feature.tx-generic-segmentation=off"}
			all, err := w.Sync(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, lines(Ops(baseline, all[nic]))); diff != "" {
				t.Errorf("Sync (-want +got)\n%s", diff)
			}
		})
	}
}

// TestIntegrationReplay makes all changes that a NIC can do, replays them on the
// NICs before and after it, and finds each applied or deferred with a reason.
func TestIntegrationReplay(t *testing.T) {
	c := open(t)
	list := nics(t)
	for i, from := range list {
		mustRun(t, "ip", "link", "set", from, "up")
		waitCarrier(t, from)
		baseline, err := c.Snapshot(t.Context(), from)
		if err != nil {
			t.Fatal(err)
		}
		for _, change := range changes {
			if err := change.make(from); err != nil {
				t.Logf("%s: not here: %v", driver(t, from), err)
			}
		}
		waitCarrier(t, from)
		now, err := c.Snapshot(t.Context(), from)
		if err != nil {
			t.Fatal(err)
		}
		delete(now, keyMAC) // two NICs cannot have one
		recorded := Ops(baseline, now)
		if len(recorded) == 0 {
			t.Errorf("%s: nothing recorded", driver(t, from))
		}
		for _, step := range []int{1, len(list) - 1} {
			to := list[(i+step)%len(list)]
			t.Run(driver(t, from)+" to "+driver(t, to), func(t *testing.T) { replay(t, c, to, recorded) })
		}
		restore(t, c, from, baseline)
	}
}

func replay(t *testing.T, c *Client, nic string, recorded []oplog.Op) {
	mustRun(t, "ip", "link", "set", nic, "down")
	baseline, err := c.Snapshot(t.Context(), nic)
	if err != nil {
		t.Fatal(err)
	}
	defer restore(t, c, nic, baseline)
	if _, err := c.Apply(t.Context(), nic, recorded, BeforeOpen); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "ip", "link", "set", nic, "up")
	deferred, err := c.Apply(t.Context(), nic, recorded, AfterOpen)
	if err != nil {
		t.Fatal(err)
	}
	waitCarrier(t, nic)
	now, err := c.Snapshot(t.Context(), nic)
	if err != nil {
		t.Fatal(err)
	}
	var misreported []Deferred
	for _, op := range recorded {
		i := slices.IndexFunc(deferred, func(d Deferred) bool { return d.Op == op })
		switch {
		case i >= 0 && deferred[i].Reason == "":
			t.Errorf("%v is deferred without a reason", op)
		case i >= 0:
			t.Logf("deferred %v", deferred[i])
		case strings.HasPrefix(op.Key, "net.ring."):
			t.Logf("applied  %v, as %s", op, now[op.Key])
		case op.Key == keyLinkSpeed && now[op.Key] != op.Value:
			// QEMU's e1000 tells 1000 whatever was forced: known once
			// there is a link.
			misreported = append(misreported, Deferred{op, "the driver keeps " + now[op.Key]})
		case now[op.Key] != op.Value:
			t.Errorf("%v was applied, but the value is %q", op, now[op.Key])
		default:
			t.Logf("applied  %v", op)
		}
	}
	again, err := c.Apply(t.Context(), nic, recorded, AfterOpen)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(append(deferred, misreported...), again, cmpopts.EquateEmpty(), cmpopts.SortSlices(func(a, b Deferred) bool { return a.Op.Key < b.Op.Key })); diff != "" {
		t.Errorf("a second replay says something else (-first +second)\n%s", diff)
	}
}

// TestIntegrationPause changes a setting on pause, which must not be reported
// and be in what Resume returns, and one after it, which must be.
func TestIntegrationPause(t *testing.T) {
	c := open(t)
	nic := nics(t)[0]
	mustRun(t, "ip", "link", "set", nic, "up")
	waitCarrier(t, nic)
	w, err := c.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Add(t.Context(), nic, Both); err != nil {
		t.Fatal(err)
	}
	baseline, err := c.Snapshot(t.Context(), nic)
	if err != nil {
		t.Fatal(err)
	}
	defer restore(t, c, nic, baseline)
	for i := range 50 {
		if err := w.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		mtu := strconv.Itoa(1300 + i)
		if _, err := c.Apply(t.Context(), nic, ops(t, "net.mtu="+mtu, "net.feature.rx-gro="+onOff(i%2 == 0)), AfterOpen); err != nil {
			t.Fatal(err)
		}
		all, err := w.Resume(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := all[nic][keyMTU]; got != mtu {
			t.Fatalf("after Resume the MTU is %q, want %s", got, mtu)
		}
		mustRun(t, "ip", "link", "set", nic, "txqueuelen", strconv.Itoa(100+i))
		select {
		case change := <-w.Changes():
			if diff := cmp.Diff([]string{keyTxQueueLen}, change.Keys); diff != "" {
				t.Fatalf("round %d: changed keys (-want +got)\n%s", i, diff)
			}
		case <-time.After(patience):
			t.Fatal("no change")
		}
	}
}

// TestIntegrationBond holds what the package comment says of bonds.
func TestIntegrationBond(t *testing.T) {
	c := open(t)
	const bond = "bond7"
	for _, nic := range nics(t) {
		t.Run(driver(t, nic), func(t *testing.T) {
			mustRun(t, "ip", "link", "set", nic, "down")
			baseline, err := c.Snapshot(t.Context(), nic)
			if err != nil {
				t.Fatal(err)
			}
			defer restore(t, c, nic, baseline)
			mustRun(t, "ip", "link", "add", bond, "type", "bond", "mode", "active-backup")
			defer mustRun(t, "ip", "link", "del", bond)
			mustRun(t, "ip", "link", "set", bond, "address", "52:54:00:00:88:88", "mtu", "1400", "up")
			mustRun(t, "ip", "link", "set", nic, "master", bond)
			mustRun(t, "ip", "link", "set", bond, "promisc", "on")
			port, err := c.Snapshot(t.Context(), nic)
			if err != nil {
				t.Fatal(err)
			}
			if port[keyMTU] != "1400" || port[keyMAC] != "52:54:00:00:88:88" {
				t.Errorf("the port did not get the bond's MTU and MAC: %v", port.In(Proxy))
			}
			if port["net.flag.promisc"] != "off" {
				t.Errorf("promiscuous mode of the bond looks like a setting of the port")
			}
			proxy, err := c.Snapshot(t.Context(), bond)
			if err != nil {
				t.Fatal(err)
			}
			if proxy["net.flag.promisc"] != "on" {
				t.Errorf("the bond's own promiscuous mode is not seen")
			}
			if diff := cmp.Diff([]string(nil), lines(In(Ops(baseline, port), Device))); diff != "" {
				t.Logf("enslaving changed device settings (-want +got)\n%s", diff)
			}
			mustRun(t, "ip", "link", "set", nic, "nomaster")

			_, largest, err := c.CanMTU(t.Context(), nic, 1500)
			if err != nil {
				t.Fatal(err)
			}
			for _, tt := range []struct {
				mtu int
				ok  bool
			}{{largest, true}, {largest + 1, false}} {
				if tt.mtu > 65535 {
					continue // more than a bond can have
				}
				ok, _, err := c.CanMTU(t.Context(), nic, tt.mtu)
				if err != nil {
					t.Fatal(err)
				}
				if ok != tt.ok {
					t.Errorf("CanMTU(%d) = %v with a largest of %d", tt.mtu, ok, largest)
				}
				mustRun(t, "ip", "link", "set", nic, "down")
				mustRun(t, "ip", "link", "set", bond, "mtu", strconv.Itoa(tt.mtu))
				if err := run("ip", "link", "set", nic, "master", bond); (err == nil) != tt.ok {
					t.Errorf("CanMTU(%d) = %v, enslaving says %v", tt.mtu, ok, err)
				}
				run("ip", "link", "set", nic, "nomaster")
			}
		})
	}
}

// TestIntegrationGone unregisters a watched interface.
func TestIntegrationGone(t *testing.T) {
	c := open(t)
	mustRun(t, "ip", "link", "add", "gone0", "type", "bond")
	w, err := c.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Add(t.Context(), "gone0", Both); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "ip", "link", "del", "gone0")
	select {
	case change := <-w.Changes():
		if !change.Gone || change.Interface != "gone0" {
			t.Errorf("got %+v", change)
		}
	case <-time.After(patience):
		t.Fatal("no change")
	}
	for name, f := range map[string]func() error{
		"Snapshot": func() error { _, err := c.Snapshot(t.Context(), "gone0"); return err },
		"Apply":    func() error { _, err := c.Apply(t.Context(), "gone0", nil, AfterOpen); return err },
		"Add":      func() error { _, err := w.Add(t.Context(), "gone0", Both); return err },
		"CanMTU":   func() error { _, _, err := c.CanMTU(t.Context(), "gone0", 1500); return err },
	} {
		if err := f(); !errors.Is(err, ErrNoInterface) {
			t.Errorf("%s: %v, want ErrNoInterface", name, err)
		}
	}
}
