// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package hotplug

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/migrate"
	"github.com/umbra-vm/umbra/migrate/qmp"
)

// startQEMU starts a machine without an operating system. A reset lets go of every
// device that it was asked for.
func startQEMU(t *testing.T, args ...string) *qmp.Client {
	t.Helper()
	// Not t.TempDir: the path of a UNIX socket has 107 bytes at most.
	dir, err := os.MkdirTemp("", "umbra-qemu-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "qmp")
	cmd := exec.Command("qemu-system-x86_64", append([]string{
		"-nodefaults", "-display", "none", "-m", "8", "-qmp", "unix:" + socket + ",server=on,wait=off",
	}, args...)...)
	said := new(strings.Builder)
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Log(said)
		}
	})
	c, err := qmp.Dial(testContext(t), socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// properties are all of a device's that have a value, but for how it came to be
// there and for how the machine goes on with it.
func properties(ctx context.Context, t *testing.T, c *qmp.Client, id string) map[string]string {
	t.Helper()
	var list []struct{ Name, Type string }
	if err := c.Execute(ctx, "qom-list", map[string]string{"path": root + "/" + id}, &list); err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, p := range list {
		if strings.HasPrefix(p.Type, "child<") || p.Name == "hotplugged" {
			continue
		}
		v, err := Device{ID: id}.property(ctx, c, p.Name)
		out[p.Name] = fmt.Sprint(v, err != nil)
	}
	return out
}

// TestQEMUGivesTheSameDeviceBack: all that QEMU tells of a device is as it was.
func TestQEMUGivesTheSameDeviceBack(t *testing.T) {
	for _, tt := range []struct {
		name   string
		args   []string
		option string
	}{
		{"PCI, at the place that QEMU has chosen, with a MAC that it has made", []string{"-device", "pci-testdev", "-netdev", "hubport,hubid=0,id=n"}, "e1000,id=d,netdev=n,romfile="},
		{"PCI, all given", []string{"-netdev", "hubport,hubid=0,id=n"}, "virtio-net-pci,id=d,netdev=n,mac=52:54:00:00:00:01,bus=pci.0,addr=0x1e.3,multifunction=on,mq=off,romfile="},
		{"PCI, a disk", []string{"-blockdev", "null-co,node-name=b,read-zeroes=on"}, "nvme,id=d,drive=b,serial=s,max_ioqpairs=3"},
		{"PCI Express, in a port", []string{"-machine", "q35", "-device", "pcie-root-port,id=rp0,chassis=1,addr=4", "-netdev", "hubport,hubid=0,id=n"}, "e1000e,id=d,bus=rp0,netdev=n,romfile="},
		{"not PCI", []string{"-device", "qemu-xhci,id=usb"}, `{"driver":"usb-tablet","id":"d","bus":"usb.0"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			c := startQEMU(t, append(tt.args, "-device", tt.option)...)
			dst := startQEMU(t, "-incoming", "unix:"+filepath.Join(t.TempDir(), "in"))
			before := properties(ctx, t, c, "d")
			d := device(t, tt.option)
			m := &move{src: c, dst: dst, opts: Options{
				Unplug: []Device{d},
				OnStep: func(s Step) {
					if s.Op == OpPlugBack && !s.Over {
						if there, err := peripherals(ctx, c); err != nil || there["d"] != "" {
							t.Errorf("the device is not gone: %v, %v", there, err)
						}
					}
				},
			}, migrate: func(context.Context, *qmp.Client, *qmp.Client, migrate.Options) (*migrate.Report, error) {
				return nil, migrate.ErrMigration
			}}
			events := c.Subscribe("DEVICE_DELETED", "RESET")
			asked := make(chan error, 1)
			go func() { asked <- letGoByReset(ctx, c, events) }()
			_, err := m.run(ctx)
			if !errors.Is(err, migrate.ErrMigration) || errors.Is(err, ErrNotPluggedBack) {
				t.Fatal(err)
			}
			if err := <-asked; err != nil {
				t.Fatal(err)
			}
			after := properties(ctx, t, c, "d")
			for name, v := range before {
				if after[name] != v {
					t.Errorf("%s was %s, is %s", name, v, after[name])
				}
			}
			if len(after) != len(before) {
				t.Errorf("%d properties, were %d", len(after), len(before))
			}
		})
	}
}

// letGoByReset resets the machine until the device has gone. A reset that comes
// before the question does nothing.
func letGoByReset(ctx context.Context, c *qmp.Client, events *qmp.Subscription) error {
	defer events.Close()
	for {
		if err := c.Execute(ctx, "system_reset", nil, nil); err != nil {
			return err
		}
		for reset := false; !reset; {
			e, err := events.Next(ctx)
			if err != nil {
				return err
			}
			if e.Event.Event == "DEVICE_DELETED" && e.Text("device") == "d" {
				return nil
			}
			reset = e.Event.Event == "RESET"
		}
	}
}
