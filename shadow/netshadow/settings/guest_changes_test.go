// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

//go:build guest

package settings

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/safchain/ethtool"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/oplog"
)

// patience bounds how long a test waits for the kernel before it fails.
const patience = 20 * time.Second

// nics returns the interfaces to test with. vmxnet3 is there for its queues: QEMU's is
// reset by most changes, and has its own address again then.
func nics(t *testing.T) []string {
	t.Helper()
	return slices.DeleteFunc(allNICs(t), func(n string) bool { return driver(t, n) == "vmxnet3" })
}

func allNICs(t *testing.T) []string {
	t.Helper()
	list := strings.FieldsFunc(os.Getenv("UMBRA_GUEST_NICS"), func(r rune) bool { return r == ',' })
	if len(list) < 2 {
		t.Fatal("UMBRA_GUEST_NICS must name at least two interfaces")
	}
	return list
}

func open(t *testing.T) *Client {
	t.Helper()
	c, err := Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func driver(t *testing.T, nic string) string {
	t.Helper()
	link, err := os.Readlink(filepath.Join("/sys/class/net", nic, "device/driver"))
	if errors.Is(err, os.ErrNotExist) {
		return "no device's"
	}
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Base(link)
}

// follow returns a watcher of a NIC, and what it has now.
func follow(t *testing.T, c *Client, nic string, scope Scope) (*Watcher, Values) {
	t.Helper()
	w, err := c.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	baseline, err := w.Add(t.Context(), nic, scope)
	if err != nil {
		t.Fatal(err)
	}
	return w, baseline
}

func run(args ...string) error {
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

func mustRun(t *testing.T, args ...string) {
	t.Helper()
	if err := run(args...); err != nil {
		t.Fatal(err)
	}
}

func sysfs(nic, name, value string) error {
	return os.WriteFile(filepath.Join("/sys/class/net", nic, name), []byte(value), 0)
}

// restore gives a NIC its baseline back when the test is over, and waits for
// its link.
func restore(t *testing.T, c *Client, nic string, baseline Values) {
	t.Helper()
	clearTraffic(nic)
	var list []oplog.Op
	for key, value := range baseline {
		if !strings.HasSuffix(key, "*") {
			list = append(list, oplog.Set(key, value))
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	mustRun(t, "ip", "link", "set", nic, "up")
	deferred, err := c.Apply(ctx, nic, list, AfterOpen)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range deferred {
		t.Errorf("%s: the baseline cannot be restored: %v", nic, d)
	}
	waitCarrier(t, nic)
}

func waitCarrier(t *testing.T, nic string) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if b, err := os.ReadFile(filepath.Join("/sys/class/net", nic, "carrier")); err == nil && string(b) == "1\n" {
			return
		}
	}
	t.Fatalf("%s: no link", nic)
}

// byIoctl makes a change by the old interface.
func byIoctl(f func(*ethtool.Ethtool) error) error {
	e, err := ethtool.NewEthtool()
	if err != nil {
		return err
	}
	defer e.Close()
	return f(e)
}

// changes are made one at a time, by every way there is. An error of make means
// that the driver has no such setting; each must work on one NIC at least.
var changes = []struct {
	name string
	want []string // operations that must follow
	make func(nic string) error
}{
	{"ip mtu", []string{"net.mtu=1400"}, func(n string) error { return run("ip", "link", "set", n, "mtu", "1400") }},
	{"sysfs mtu", []string{"net.mtu=1300"}, func(n string) error { return sysfs(n, "mtu", "1300") }},
	{"ip mtu jumbo", []string{"net.mtu=4000"}, func(n string) error { return run("ip", "link", "set", n, "mtu", "4000") }},
	{"ip address", []string{"net.mac=52:54:00:00:77:77"}, func(n string) error {
		return run("ip", "link", "set", n, "address", "52:54:00:00:77:77")
	}},
	{"ip promisc", []string{"net.flag.promisc=on"}, func(n string) error { return run("ip", "link", "set", n, "promisc", "on") }},
	{"ip allmulticast", []string{"net.flag.allmulti=on"}, func(n string) error { return run("ip", "link", "set", n, "allmulticast", "on") }},
	{"ip multicast", []string{"net.flag.multicast=off"}, func(n string) error { return run("ip", "link", "set", n, "multicast", "off") }},
	{"ip arp", []string{"net.flag.arp=off"}, func(n string) error { return run("ip", "link", "set", n, "arp", "off") }},
	{"sysfs flags", []string{"net.flag.promisc=on"}, func(n string) error {
		b, err := os.ReadFile(filepath.Join("/sys/class/net", n, "flags"))
		if err != nil {
			return err
		}
		flags, err := strconv.ParseUint(strings.TrimSpace(string(b)), 0, 32)
		if err != nil {
			return err
		}
		return sysfs(n, "flags", fmt.Sprintf("%#x", flags|0x100))
	}},
	{"ip txqueuelen", []string{"net.txqueuelen=555"}, func(n string) error { return run("ip", "link", "set", n, "txqueuelen", "555") }},
	{"sysfs tx_queue_len", []string{"net.txqueuelen=556"}, func(n string) error { return sysfs(n, "tx_queue_len", "556") }},
	{"ethtool -K", []string{"net.feature.rx-gro=off"}, func(n string) error { return run("ethtool", "-K", n, "gro", "off") }},
	{"ethtool -K of the hardware", []string{"net.feature.tx-scatter-gather=off", "net.feature.tx-tcp-segmentation=off"}, func(n string) error {
		return run("ethtool", "-K", n, "tx-scatter-gather", "off", "tx-tcp-segmentation", "off")
	}},
	{"ioctl features", []string{"net.feature.rx-gro=off"}, func(n string) error {
		return byIoctl(func(e *ethtool.Ethtool) error {
			return e.Change(n, map[string]bool{"rx-gro": false})
		})
	}},
	{"ethtool -G", []string{"net.ring.rx=128", "net.ring.tx=128"}, func(n string) error { return run("ethtool", "-G", n, "rx", "128", "tx", "128") }},
	{"ioctl rings", []string{"net.ring.rx=96"}, func(n string) error {
		return byIoctl(func(e *ethtool.Ethtool) error {
			r, err := e.GetRing(n)
			if err != nil {
				return err
			}
			r.RxPending = 96
			_, err = e.SetRing(n, r)
			return err
		})
	}},
	{"ethtool -A", []string{"net.pause.autoneg=off", "net.pause.rx=on", "net.pause.tx=off"}, func(n string) error {
		return run("ethtool", "-A", n, "autoneg", "off", "rx", "on", "tx", "off")
	}},
	{"ioctl pause", []string{"net.pause.autoneg=off", "net.pause.rx=off", "net.pause.tx=on"}, func(n string) error {
		return byIoctl(func(e *ethtool.Ethtool) error {
			_, err := e.SetPause(n, ethtool.Pause{Autoneg: 0, RxPause: 0, TxPause: 1})
			return err
		})
	}},
	{"ethtool -s forced", []string{"net.link.autoneg=off", "net.link.speed=100", "net.link.duplex=full"}, func(n string) error {
		return run("ethtool", "-s", n, "autoneg", "off", "speed", "100", "duplex", "full")
	}},
	{"ethtool -s advertise", []string{"net.link.advertise=100baseT/Full"}, func(n string) error {
		return run("ethtool", "-s", n, "autoneg", "on", "advertise", "0x008")
	}},
	{"ethtool -C", []string{"net.coalesce.rx-usecs=50"}, func(n string) error { return run("ethtool", "-C", n, "rx-usecs", "50") }},
	{"ioctl coalescing", []string{"net.coalesce.rx-usecs=100"}, func(n string) error {
		return byIoctl(func(e *ethtool.Ethtool) error {
			co, err := e.GetCoalesce(n)
			if err != nil {
				return err
			}
			co.RxCoalesceUsecs = 100
			_, err = e.SetCoalesce(n, co)
			return err
		})
	}},
	{"ethtool -s wol", []string{"net.wake.on=magic"}, func(n string) error { return run("ethtool", "-s", n, "wol", "g") }},
	{"ioctl wol", []string{"net.wake.on=bcast"}, func(n string) error {
		return byIoctl(func(e *ethtool.Ethtool) error {
			_, err := e.SetWakeOnLan(n, ethtool.WakeOnLan{Opts: 1 << 3})
			return err
		})
	}},
	{"ethtool -s msglvl", []string{"net.messages=drv,link"}, func(n string) error { return run("ethtool", "-s", n, "msglvl", "0x5") }},
	{"ioctl msglvl", []string{"net.messages=none"}, func(n string) error {
		return byIoctl(func(e *ethtool.Ethtool) error {
			_, _, err := e.MsglvlSet(n, 0)
			return err
		})
	}},
	{"ip gso_max_size", []string{"net.gso.max-size=16000", "net.gso.max-segs=20"}, func(n string) error {
		return run("ip", "link", "set", n, "gso_max_size", "16000", "gso_max_segs", "20")
	}},
	{"ip gro_max_size", []string{"net.gro.max-size=30000"}, func(n string) error { return run("ip", "link", "set", n, "gro_max_size", "30000") }},
	{"sysfs threaded", []string{"net.napi.threaded=on"}, func(n string) error { return sysfs(n, "threaded", "1") }},
	{"sysfs gro_flush_timeout", []string{"net.napi.gro-flush-timeout=20000", "net.napi.defer-hard-irqs=2"}, func(n string) error {
		return errors.Join(sysfs(n, "gro_flush_timeout", "20000"), sysfs(n, "napi_defer_hard_irqs", "2"))
	}},
	{"sysfs rps", []string{"net.rps.cpus.rx-0=1", "net.rps.flows.rx-0=64"}, func(n string) error {
		return errors.Join(sysfs(n, "queues/rx-0/rps_cpus", "1"), sysfs(n, "queues/rx-0/rps_flow_cnt", "64"))
	}},
	{"tc qdisc", []string{"net.qdisc.root=pfifo,handle=1:,options=32000000"}, func(n string) error {
		return run("tc", "qdisc", "replace", "dev", n, "root", "handle", "1:", "pfifo", "limit", "50")
	}},
	{"tc clsact", []string{"net.qdisc.ingress=clsact,handle=ffff:,options="}, func(n string) error {
		return run("tc", "qdisc", "add", "dev", n, "clsact")
	}},
	{"ethtool -X", []string{"net.hash.key=" + strings.Repeat("5a", 40)}, func(n string) error {
		return run("ethtool", "-X", n, "hkey", strings.TrimSuffix(strings.Repeat("5a:", 40), ":"))
	}},
	{"ethtool -N rx-flow-hash", []string{"net.hash.fields.tcp4=sd"}, func(n string) error { return run("ethtool", "-N", n, "rx-flow-hash", "tcp4", "sd") }},
	{"ioctl time stamps", []string{"net.timestamp.tx=on", "net.timestamp.rx=all"}, func(n string) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.IoctlSetHwTstamp(fd, n, &unix.HwTstampConfig{Tx_type: unix.HWTSTAMP_TX_ON, Rx_filter: unix.HWTSTAMP_FILTER_ALL})
	}},
}
