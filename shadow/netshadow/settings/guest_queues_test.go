// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

//go:build guest

package settings

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/umbra-vm/umbra/shadow/oplog"
)

// pair makes two interfaces of the driver veth with some queues each, and returns one.
// None of QEMU's NICs has a number of queues that can be changed, unless the host gives
// it several.
func pair(t *testing.T, name, queues string) string {
	t.Helper()
	mustRun(t, "ip", "link", "add", name, "numtxqueues", queues, "numrxqueues", queues,
		"type", "veth", "peer", "name", name+"p", "numtxqueues", queues, "numrxqueues", queues)
	t.Cleanup(func() { run("ip", "link", "del", name) })
	for _, n := range []string{name, name + "p"} {
		mustRun(t, "ip", "link", "set", n, "up")
	}
	waitCarrier(t, name)
	return name
}

// TestIntegrationQueues makes changes that need more than one queue, sees them, replays
// them on an interface with as many, and finds them deferred by one with fewer.
func TestIntegrationQueues(t *testing.T) {
	c := open(t)
	from, to, single := pair(t, "q0", "4"), pair(t, "q1", "4"), pair(t, "q2", "1")
	for name, tt := range map[string]struct {
		make func(t *testing.T)
		want []string
	}{
		"ethtool -L": {
			func(t *testing.T) { mustRun(t, "ethtool", "-L", from, "rx", "3", "tx", "2") },
			[]string{"net.channel.rx=3", "net.channel.tx=2"},
		},
		"sysfs xps and rps of the second queue": {
			func(t *testing.T) {
				for file, value := range map[string]string{"tx-1/xps_cpus": "1", "tx-1/xps_rxqs": "3", "rx-1/rps_cpus": "1"} {
					if err := sysfs(from, filepath.Join("queues", file), value); err != nil {
						t.Fatal(err)
					}
				}
			},
			[]string{"net.rps.cpus.rx-1=1", "net.xps.cpus.tx-1=1", "net.xps.queues.tx-1=3"},
		},
		"a discipline for each class of traffic": {
			func(t *testing.T) {
				tc(t, from, "qdisc replace dev DEV root handle 1: mqprio num_tc 2 "+
					"map 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 queues 2@0 2@2 hw 0")
				tc(t, from, "qdisc replace dev DEV parent 1:2 handle 12: pfifo limit 20")
			},
			[]string{
				"net.qdisc.1:2=pfifo,handle=12:,options=14000000",
				"net.qdisc.root=mqprio,handle=1:,options=" +
					"02" + "00010001000100010001000100010001" + "00" +
					"0200" + "0200" + strings.Repeat("0000", 14) + "0000" + "0200" + strings.Repeat("0000", 14) + "0000",
			},
		},
		"a discipline for each queue": {
			func(t *testing.T) {
				tc(t, from, "qdisc replace dev DEV root handle 1: mq")
				tc(t, from, "qdisc replace dev DEV parent 1:3 handle 13: pfifo limit 30")
			},
			[]string{"net.qdisc.1:3=pfifo,handle=13:,options=1e000000", "net.qdisc.root=mq,handle=1:"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, baseline := follow(t, c, from, Device)
			defer restoreQueues(t, c, from, baseline)
			defer restoreQueues(t, c, to, baseline)
			tt.make(t)
			reread(t, w, tt.want)
			got := awaitOps(t, w, baseline, tt.want)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("recorded (-want +got)\n%s", diff)
			}
			recorded := ops(t, tt.want...)
			deferred, err := c.Apply(t.Context(), to, recorded, AfterOpen)
			if err != nil || len(deferred) > 0 {
				t.Errorf("an interface with as many queues defers %v, %v", deferred, err)
			}
			now, err := c.Snapshot(t.Context(), to)
			if err != nil {
				t.Fatal(err)
			}
			if missing := without(tt.want, lines(Ops(baseline, now))); len(missing) > 0 {
				t.Errorf("an interface with as many queues lacks %q", missing)
			}
			defer clearTraffic(single)
			deferred, err = c.Apply(t.Context(), single, recorded, AfterOpen)
			if err != nil {
				t.Fatal(err)
			}
			for _, op := range recorded {
				i := slices.IndexFunc(deferred, func(d Deferred) bool { return d.Op == op })
				if i < 0 || deferred[i].Reason == "" {
					t.Errorf("an interface with one queue defers %v, not %v", deferred, op)
				}
			}
			t.Logf("an interface with one queue: %v", deferred)
		})
	}
}

func restoreQueues(t *testing.T, c *Client, nic string, baseline Values) {
	t.Helper()
	clearTraffic(nic)
	var list []oplog.Op
	for key, value := range baseline {
		if o, ok := lookup(key); ok && (o.group == groupChannels || o.group == groupQueues) {
			list = append(list, oplog.Set(key, value))
		}
	}
	if deferred, err := c.Apply(t.Context(), nic, list, AfterOpen); err != nil || len(deferred) > 0 {
		t.Fatalf("%s: %v, %v", nic, deferred, err)
	}
}

// TestIntegrationHashTable spreads what a NIC receives over its queues in another way.
func TestIntegrationHashTable(t *testing.T) {
	c := open(t)
	i := slices.IndexFunc(allNICs(t), func(n string) bool { return driver(t, n) == "vmxnet3" })
	if i < 0 {
		t.Fatal("no NIC has several queues")
	}
	nic := allNICs(t)[i]
	mustRun(t, "ip", "link", "set", nic, "up")
	w, baseline := follow(t, c, nic, Device)
	if !strings.HasPrefix(baseline[keyHashTable], "0,1") {
		t.Fatalf("%s has the table %q", nic, baseline[keyHashTable])
	}
	mustRun(t, "ethtool", "-X", nic, "weight", "1", "0")
	want := []string{keyHashTable + "=0"}
	reread(t, w, want)
	awaitOps(t, w, baseline, want)
	for _, table := range []string{baseline[keyHashTable], "0", "1,0"} {
		op := oplog.Set(keyHashTable, table)
		deferred, err := c.Apply(t.Context(), nic, []oplog.Op{op}, AfterOpen)
		if err != nil || len(deferred) > 0 {
			t.Errorf("%v: %v, %v", op, deferred, err)
		}
		if now, err := c.Snapshot(t.Context(), nic); err != nil || now[keyHashTable] != op.Value {
			t.Errorf("%v was applied, the table is %q, %v", op, now[keyHashTable], err)
		}
	}
	if deferred, err := c.Apply(t.Context(), nic, ops(t, keyHashTable+"=0,7"), AfterOpen); err != nil || len(deferred) != 1 {
		t.Errorf("a queue that the device has not: %v, %v", deferred, err)
	}
}
