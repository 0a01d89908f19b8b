// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xentests

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/umbra-vm/umbra/ci/testbed/vm"
	"github.com/umbra-vm/umbra/ci/testbed/vmtest"
	"github.com/umbra-vm/umbra/ci/xenlab"
	"github.com/umbra-vm/umbra/image/machine"
)

// paravirtual is the model of a NIC that stays with dom0 and is on its bridge.
const paravirtual = "virtio-net-pci"

// A site is a host that is to be: its name, and the models of its NICs. Domains can be given
// all that are not paravirtual.
type site struct {
	name   string
	models []string
}

// host boots one host.
func (l *lab) host(name string, models ...string) *xenlab.Host {
	l.t.Helper()
	return l.hosts(site{name, models})[0]
}

// hosts boots hosts, at the same time.
func (l *lab) hosts(sites ...site) []*xenlab.Host {
	l.t.Helper()
	hosts := make([]*xenlab.Host, len(sites))
	dir := vmtest.Dir(l.t)
	var g errgroup.Group
	for i, s := range sites {
		opts := l.options(s)
		if len(sites) == 2 {
			opts.Link = link(dir, i)
		}
		g.Go(func() (err error) {
			if hosts[i], err = xenlab.Start(l.ctx, opts); err != nil {
				return err
			}
			l.say("%s: dom0 answers", s.name)
			return l.handOut(hosts[i], s.models)
		})
	}
	err := g.Wait()
	for _, h := range hosts {
		if h == nil {
			continue
		}
		l.t.Cleanup(func() { h.Close() })
		l.mourn(h)
		// A host does not outlive the test's patience.
		late := time.AfterFunc(time.Until(l.began.Add(*patience-2*dumpTime)), func() { l.dump(h) })
		l.t.Cleanup(func() {
			if late.Stop() && l.t.Failed() {
				l.dump(h)
			}
		})
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return hosts
}

// mourn ends the test with a host that ends: whatever is waited for is waited for in vain.
func (l *lab) mourn(h *xenlab.Host) {
	l.beside(func(ctx context.Context) {
		select {
		case <-ctx.Done():
		case <-h.VM.Done():
			l.t.Errorf("%s has ended: %v", h.Name, h.VM.Wait(ctx))
			l.end()
		}
	})
}

// link is the end of a cable between two hosts, whose sockets are in dir.
func link(dir string, end int) xenlab.Link {
	socket := func(end int) string { return filepath.Join(dir, fmt.Sprint(end)) }
	return xenlab.Link{
		NIC: machine.NIC{
			ID: "link", Model: paravirtual, Address: "9", MAC: fmt.Sprintf("52:54:00:75:6c:%02x", end),
			Netdev: fmt.Sprintf("dgram,local.type=unix,local.path=%s,remote.type=unix,remote.path=%s", socket(end), socket(1-end)),
		},
		Address: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 98, 0, byte(1 + end)}), 24),
	}
}

// strayWrite is what Xen prints of a device that writes to an address at which its domain has
// no memory.
const strayWrite = "[VT-D]DMAR:[DMA Write]"

// options puts the NICs of a site on the network.
func (l *lab) options(s site) xenlab.HostOptions {
	l.t.Helper()
	opts := xenlab.HostOptions{Name: s.name, Dom0: l.dom0}
	opts.Dir = vmtest.Dir(l.t)
	opts.OnLine = func(line vm.Line) {
		l.say("%s: %s", s.name, line.Text)
		// A stock Xen lets the devices of a domain that has gone write, into nothing.
		if l.xen.patched && strings.Contains(line.Text, strayWrite) {
			l.t.Errorf("a device of %s has written where it may not: the guest's memory cannot be trusted", s.name)
		}
	}
	for i, model := range s.models {
		netdev, _, err := l.bed.Plug(fmt.Sprintf("%s-%s", s.name, model))
		if err != nil {
			l.t.Fatal(err)
		}
		opts.NICs = append(opts.NICs, machine.NIC{
			ID: fmt.Sprint("nic", i), Model: model, Netdev: netdev,
			MAC: fmt.Sprintf("52:54:00:75:6d:%02x", len(l.bed.Switch.Ports())),
		})
	}
	return opts
}

// handOut makes NICs of these models ready for domains.
func (l *lab) handOut(h *xenlab.Host, models []string) error {
	for i, model := range models {
		var err error
		if model == paravirtual {
			err = h.AddBridge(l.ctx, xenlab.Device(i))
		} else {
			err = h.Assign(l.ctx, xenlab.Device(i))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// passed is the n-th NIC of a host, in a slot of the guest.
func passed(n, slot int) []xenlab.Passed {
	return []xenlab.Passed{{Device: xenlab.Device(n), Slot: slot}}
}
