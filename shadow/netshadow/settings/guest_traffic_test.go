// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

//go:build guest

package settings

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/umbra-vm/umbra/shadow/oplog"
)

// trees are traffic control as users set it up, by tc; DEV is the interface. What is in
// deferred, by the beginning of the key, no other interface takes.
var trees = map[string]struct {
	tc       []string
	deferred []string
}{
	"pfifo":    {tc: []string{"qdisc replace dev DEV root handle 1: pfifo limit 50"}},
	"bfifo":    {tc: []string{"qdisc replace dev DEV root bfifo limit 5000"}},
	"tbf":      {tc: []string{"qdisc replace dev DEV root handle 1: tbf rate 1mbit burst 32kbit latency 400ms"}},
	"fq":       {tc: []string{"qdisc replace dev DEV root handle 1: fq limit 2000 flow_limit 40 maxrate 50mbit"}},
	"fq_codel": {tc: []string{"qdisc replace dev DEV root handle 1: fq_codel limit 600 flows 512 target 3ms interval 40ms noecn"}},
	"cake":     {tc: []string{"qdisc replace dev DEV root handle 1: cake bandwidth 20mbit diffserv4 nat ack-filter overhead 18 mpu 64"}},
	"netem": {tc: []string{
		"qdisc replace dev DEV root handle 1: netem delay 10ms 2ms loss 1% 25% duplicate 1% corrupt 0.1% rate 50mbit limit 300",
	}},
	"sfq": {tc: []string{
		"qdisc replace dev DEV root handle 1: sfq perturb 10 limit 100 depth 60 divisor 512",
	}},
	"htb with classes, disciplines on them, and filters": {tc: []string{
		"qdisc replace dev DEV root handle 1: htb default 30 r2q 5 direct_qlen 700",
		"class add dev DEV parent 1: classid 1:1 htb rate 20mbit burst 15k",
		"class add dev DEV parent 1:1 classid 1:10 htb rate 5mbit ceil 10mbit burst 15k prio 1",
		"class add dev DEV parent 1:1 classid 1:30 htb rate 1kbit ceil 20mbit burst 15k quantum 3000",
		"class add dev DEV parent 1:10 classid 1:11 htb rate 1mbit",
		"qdisc add dev DEV parent 1:11 handle 2: htb default 2",
		"class add dev DEV parent 2: classid 2:2 htb rate 1mbit",
		"qdisc add dev DEV parent 2:2 handle 3: sfq perturb 10",
		"qdisc add dev DEV parent 1:30 handle 30: fq_codel limit 200",
		"filter add dev DEV parent 1: protocol ip prio 5 u32 match ip dport 22 0xffff flowid 1:11",
		"filter add dev DEV parent 1: protocol ip prio 2 u32 match ip src 192.0.2.0/24 match ip protocol 17 0xff flowid 1:30",
		"filter add dev DEV parent 1: protocol ipv6 prio 3 handle 7 fw classid 1:11",
		"filter add dev DEV parent 1:10 protocol all prio 1 matchall flowid 1:11",
		"filter add dev DEV parent 2: protocol ip prio 1 u32 match u32 0 0 flowid 2:2",
	}},
	"tables of u32": {tc: []string{
		"qdisc replace dev DEV root handle 1: htb",
		"class add dev DEV parent 1: classid 1:1 htb rate 1mbit",
		"filter add dev DEV parent 1: prio 9 protocol ip u32 match ip tos 0x10 0xff flowid 1:1",
		"filter add dev DEV parent 1: prio 5 handle 6: protocol ip u32 divisor 256",
		"filter add dev DEV parent 1: prio 5 handle 6:2a:1 protocol ip u32 ht 6:2a: match ip src 192.0.2.42 flowid 1:1",
		"filter add dev DEV parent 1: prio 5 protocol ip u32 ht 800:: match ip src 192.0.2.0/24 hashkey mask 0x000000ff at 12 link 6:",
	}},
	"prio with a filter by flower": {tc: []string{
		"qdisc replace dev DEV root handle 5: prio bands 4 priomap 1 2 2 2 1 2 0 0 1 1 1 1 1 1 1 3",
		"qdisc add dev DEV parent 5:1 handle 51: pfifo limit 10",
		"filter add dev DEV parent 5: protocol ip prio 1 flower ip_proto tcp dst_port 443 src_ip 192.0.2.0/25 classid 5:1",
		"filter add dev DEV parent 5: protocol 802.1Q prio 2 flower vlan_id 42 vlan_ethtype ip classid 5:4",
	}},
	"hfsc": {tc: []string{
		"qdisc replace dev DEV root handle 1: hfsc default 2",
		"class add dev DEV parent 1: classid 1:1 hfsc sc rate 10mbit ul rate 10mbit",
		"class add dev DEV parent 1:1 classid 1:2 hfsc rt m1 2mbit d 10ms m2 1mbit ls m1 0 d 0 m2 3mbit",
	}},
	"drr and qfq": {tc: []string{
		"qdisc replace dev DEV root handle 1: drr",
		"class add dev DEV parent 1: classid 1:1 drr quantum 3000",
		"qdisc add dev DEV parent 1:1 handle 2: qfq",
		"class add dev DEV parent 2: classid 2:1 qfq weight 10 maxpkt 2000",
		"filter add dev DEV parent 1: protocol all prio 1 matchall classid 1:1",
	}},
	"ets": {tc: []string{"qdisc replace dev DEV root handle 1: ets bands 4 strict 1 quanta 4000 3000 2000 priomap 3 2 1 0"}},
	"ingress with a policer": {tc: []string{
		"qdisc add dev DEV handle ffff: ingress",
		"filter add dev DEV parent ffff: protocol all prio 10 u32 match u32 0 0 police rate 8mbit burst 40k conform-exceed drop/continue flowid :1",
	}},
	"clsact on both sides, with actions and chains": {tc: []string{
		"qdisc add dev DEV clsact",
		"filter add dev DEV ingress protocol ip prio 1 flower ip_proto icmp action drop",
		"filter add dev DEV ingress protocol all prio 2 matchall skip_hw action goto chain 4",
		"filter add dev DEV ingress chain 4 protocol all prio 1 matchall action skbedit priority 6 action pass",
		"filter add dev DEV egress protocol ip prio 1 flower dst_ip 198.51.100.1 action mirred egress mirror dev lo",
		"filter add dev DEV egress protocol ip prio 2 flower ip_proto udp action police rate 1mbit burst 10k action csum udp",
	}},
	"red, whose table the kernel does not tell": {
		tc:       []string{"qdisc replace dev DEV root handle 1: red limit 400000 min 30000 max 90000 avpkt 1000 burst 55 bandwidth 10mbit"},
		deferred: []string{keyRoot},
	},
}

func tc(t *testing.T, dev, line string) {
	t.Helper()
	args := strings.Fields(strings.ReplaceAll(line, "DEV", dev))
	mustRun(t, append([]string{"tc"}, args...)...)
}

// clearTraffic gives an interface its default traffic control back.
func clearTraffic(nic string) {
	run("tc", "qdisc", "del", "dev", nic, "root")
	run("tc", "qdisc", "del", "dev", nic, "ingress")
	run("tc", "qdisc", "del", "dev", nic, "clsact")
}

// trafficOf returns what a snapshot has of traffic control.
func trafficOf(t *testing.T, c *Client, nic string) Values {
	t.Helper()
	v, err := c.Snapshot(t.Context(), nic)
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(v, func(key, _ string) bool {
		o, ok := lookup(key)
		return !ok || o.group != groupTraffic
	})
	return v
}

// TestIntegrationTraffic sets up trees of traffic control, sees each announced and
// recorded whole, takes it away, after which nothing of it is recorded, and replays it on
// another NIC, where it is the same.
func TestIntegrationTraffic(t *testing.T) {
	c := open(t)
	list := nics(t)
	from, to := list[0], list[1]
	for _, nic := range list[:2] {
		mustRun(t, "ip", "link", "set", nic, "up")
		waitCarrier(t, nic)
	}
	for name, tree := range trees {
		t.Run(name, func(t *testing.T) {
			defer clearTraffic(from)
			defer clearTraffic(to)
			w, baseline := follow(t, c, from, Device)
			for _, line := range tree.tc {
				tc(t, from, line)
			}
			made := trafficOf(t, c, from)
			recorded := Ops(Values{}, made)
			if len(recorded) != len(tree.tc) {
				t.Errorf("%d commands made %d operations:\n%s", len(tree.tc), len(recorded), strings.Join(lines(recorded), "\n"))
			}
			t.Logf("\n%s", strings.Join(lines(recorded), "\n"))
			recorder := NewRecorder(baseline, nil)
			log := new(oplog.Log)
			awaitLog(t, w, recorder, log, recorded)
			// Before it is replayed: actions of filters are no interface's, and would be
			// found instead of made.
			clearTraffic(from)
			awaitLog(t, w, recorder, log, nil)

			// In any order of the log.
			slices.Reverse(recorded)
			deferred, err := c.Apply(t.Context(), to, recorded, AfterOpen)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range deferred {
				t.Logf("deferred %v", d)
				if !slices.ContainsFunc(tree.deferred, func(p string) bool { return strings.HasPrefix(d.Op.Key, p) }) || d.Reason == "" {
					t.Errorf("deferred %v", d)
				}
			}
			got := trafficOf(t, c, to)
			for _, d := range deferred {
				delete(made, d.Op.Key)
			}
			if diff := cmp.Diff(made, got); diff != "" {
				t.Errorf("another NIC (-want +got)\n%s", diff)
			}
			again, err := c.Apply(t.Context(), to, recorded, AfterOpen)
			if err != nil || len(again) != len(deferred) {
				t.Errorf("a second replay defers %v, %v", again, err)
			}
		})
	}
}

// awaitLog receives changes until the log that they lead to has the operations of want
// and no others of traffic control.
func awaitLog(t *testing.T, w *Watcher, r *Recorder, log *oplog.Log, want []oplog.Op) {
	t.Helper()
	timeout := time.After(patience)
	sortOps(want)
	for {
		var got []oplog.Op
		for _, op := range log.Snapshot() {
			if o, ok := lookup(op.Key); ok && o.group == groupTraffic {
				got = append(got, op)
			}
		}
		sortOps(got)
		if slices.Equal(got, want) {
			return
		}
		select {
		case change, ok := <-w.Changes():
			if !ok {
				t.Fatalf("the watcher ended: %v", w.Err())
			}
			for _, op := range r.Observe(change.Values) {
				if _, err := log.Apply(op); err != nil {
					t.Fatal(err)
				}
			}
		case <-timeout:
			t.Fatalf("want %q in the log, have %q", lines(want), lines(got))
		}
	}
}
