// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package hold

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/netshadow/harvest/frame"
)

// kernel imitates what rtnetlink and sch_plug.c do to the root queueing disciplines of
// interfaces. It lets step frames pass when a plug is opened.
type kernel struct {
	roots  map[int]*qdisc
	step   int
	stuck  bool // ksoftirqd is slow: an opened plug lets nothing pass
	simple bool // has no nftables
	denied error
	calls  []string
}

func (k *kernel) serve(reqs []netlink.Message) ([]netlink.Message, error) {
	var answers []netlink.Message
	for _, r := range reqs {
		if k.denied != nil {
			return nltest.Error(int(k.denied.(unix.Errno)), reqs)
		}
		switch r.Header.Type {
		case unix.RTM_GETQDISC:
			return k.list(r)
		case unix.RTM_NEWQDISC, unix.RTM_DELQDISC:
			if errno := k.change(r); errno != 0 {
				return nltest.Error(int(errno), []netlink.Message{r})
			}
			ack, err := nltest.Error(0, []netlink.Message{r})
			if err != nil {
				return nil, err
			}
			answers = append(answers, ack...)
		}
	}
	return answers, nil
}

func (k *kernel) list(r netlink.Message) ([]netlink.Message, error) {
	var msgs []netlink.Message
	for index, q := range k.roots {
		b := tcmsg(index, q.handle, tcRoot)
		b = appendAttribute(b, tcaKind, append([]byte(q.kind), 0))
		queue := binary.NativeEndian.AppendUint32(nil, uint32(q.stats.Frames))
		queue = binary.NativeEndian.AppendUint32(queue, uint32(q.stats.Bytes))
		queue = binary.NativeEndian.AppendUint32(queue, uint32(q.stats.Drops))
		queue = append(queue, make([]byte, 8)...)
		basic := append(binary.NativeEndian.AppendUint64(nil, q.stats.Passed), make([]byte, 4)...)
		stats := appendAttribute(nil, statsQueue, queue)
		b = appendAttribute(b, tcaStats2, appendAttribute(stats, statsBasic, basic))
		msgs = append(msgs, netlink.Message{Header: netlink.Header{
			Type: unix.RTM_NEWQDISC, Flags: netlink.Multi, Sequence: r.Header.Sequence, PID: r.Header.PID,
		}, Data: b})
	}
	return append(msgs, netlink.Message{Header: netlink.Header{
		Type: netlink.Done, Flags: netlink.Multi, Sequence: r.Header.Sequence, PID: r.Header.PID,
	}}), nil
}

func (k *kernel) change(r netlink.Message) unix.Errno {
	index, parent, q, err := parseQdisc(r.Data)
	if err != nil || parent != tcRoot || q.handle != handle {
		return unix.EINVAL
	}
	root := k.roots[index]
	if r.Header.Type == unix.RTM_DELQDISC {
		k.calls = append(k.calls, "delete")
		k.roots[index] = &qdisc{kind: "noqueue"}
		return 0
	}
	option := r.Data[len(r.Data)-8:]
	action, limit := binary.NativeEndian.Uint32(option), binary.NativeEndian.Uint32(option[4:])
	if r.Header.Flags&netlink.Create != 0 {
		k.calls = append(k.calls, "create")
		if root.handle != 0 {
			return unix.EEXIST
		}
		k.roots[index] = &qdisc{kind: q.kind, handle: q.handle, stats: Stats{Drops: int(limit)}}
		return 0
	}
	switch action {
	case plugBuffer:
		k.calls = append(k.calls, "buffer")
	case plugReleaseIndefinite:
		k.calls = append(k.calls, "open")
		if !k.stuck {
			root.stats.Frames = max(root.stats.Frames-k.step, 0)
		}
	case plugLimit:
		k.calls = append(k.calls, "limit")
	default:
		return unix.EINVAL
	}
	return 0
}

func (k *kernel) divert(_, to int) (io.Closer, error) {
	if k.simple {
		return nil, unix.EPROTONOSUPPORT
	}
	if to != port {
		return nil, unix.ENODEV
	}
	k.calls = append(k.calls, "divert")
	return (*diverted)(k), nil
}

type diverted kernel

func (d *diverted) Close() error {
	d.calls = append(d.calls, "end")
	return nil
}

const proxy, port = 7, 9

func newTestPlug(t *testing.T, root qdisc) (*Plug, *kernel) {
	k := &kernel{
		roots: map[int]*qdisc{proxy: &root, port: {kind: "fq_codel"}},
		step:  600,
	}
	p := newPlug(nil, nltest.Dial(k.serve), k.divert)
	t.Cleanup(func() { p.Close() })
	return p, k
}

func TestHold(t *testing.T) {
	for _, tt := range []struct {
		name   string
		root   qdisc
		denied error
		want   error
		calls  []string
	}{
		{name: "an interface without queueing discipline is plugged", root: qdisc{kind: "noqueue"}, calls: []string{"create"}},
		{name: "the kernel's default gives way", root: qdisc{kind: "fq_codel"}, calls: []string{"create"}},
		{name: "a predecessor's plug is kept and closed", root: qdisc{kind: "plug", handle: handle}, calls: []string{"limit", "buffer"}},
		{name: "the user's is left alone", root: qdisc{kind: "htb", handle: 0x10000}, want: ErrRootBusy},
		{name: "the user's plug is left alone", root: qdisc{kind: "plug", handle: 0x80010000}, want: ErrRootBusy},
		{name: "another kind with our handle is left alone", root: qdisc{kind: "htb", handle: handle}, want: ErrRootBusy},
		{name: "an error of the kernel's is passed on", root: qdisc{kind: "noqueue"}, denied: unix.EPERM, want: unix.EPERM},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, k := newTestPlug(t, tt.root)
			k.denied = tt.denied
			err := p.Hold(t.Context(), proxy, 1000)
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if d := cmp.Diff(tt.calls, k.calls); d != "" {
				t.Error(d)
			}
			var op *OpError
			if err != nil && (!errors.As(err, &op) || op.Ifindex != proxy || op.Op != "plug") {
				t.Errorf("error %#v does not name operation and interface", err)
			}
		})
	}
}

func TestHoldPassesLimit(t *testing.T) {
	p, k := newTestPlug(t, qdisc{kind: "noqueue"})
	if err := p.Hold(t.Context(), proxy, 123456); err != nil {
		t.Fatal(err)
	}
	if got := k.roots[proxy].stats.Drops; got != 123456 { // where this kernel leaves it
		t.Errorf("limit %d", got)
	}
}

func TestStats(t *testing.T) {
	want := Stats{Frames: 3, Bytes: 300, Drops: 2, Passed: 17}
	p, _ := newTestPlug(t, qdisc{kind: "plug", handle: handle, stats: want})
	if got, err := p.Stats(t.Context(), proxy); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, index := range []int{port, 1234} {
		if _, err := p.Stats(t.Context(), index); !errors.Is(err, ErrNotPlugged) {
			t.Errorf("interface %d: %v, want ErrNotPlugged", index, err)
		}
	}
}

func TestRelease(t *testing.T) {
	plugged := func(frames int) qdisc {
		return qdisc{kind: "plug", handle: handle, stats: Stats{Frames: frames, Bytes: 100 * frames, Drops: 4}}
	}
	for _, tt := range []struct {
		name  string
		held  int
		port  int
		calls []string
	}{
		{"few frames go at once, and later ones around the plug while it is removed", burst, port, []string{"open", "divert", "delete", "end"}},
		{"many go in portions, the last of which stays open", 1500, port, []string{"open", "buffer", "open", "buffer", "open", "divert", "delete", "end"}},
		{"many go at once without a port to wait for", 600, 0, []string{"open", "delete"}},
		{"an empty plug is removed", 0, port, []string{"open", "divert", "delete", "end"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, k := newTestPlug(t, plugged(tt.held))
			got, err := p.Release(t.Context(), proxy, tt.port)
			want := Released{Held: tt.held, Bytes: 100 * tt.held, Drops: 4}
			if err != nil || got != want {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
			if d := cmp.Diff(tt.calls, k.calls); d != "" {
				t.Error(d)
			}
			if kind := k.roots[proxy].kind; kind != "noqueue" {
				t.Errorf("the interface was left with %s", kind)
			}
		})
	}
}

func TestReleaseDoesWithoutADivert(t *testing.T) {
	p, k := newTestPlug(t, qdisc{kind: "plug", handle: handle, stats: Stats{Frames: 3}})
	k.simple = true
	if got, err := p.Release(t.Context(), proxy, port); err != nil || got.Held != 3 {
		t.Errorf("got %+v, %v", got, err)
	}
	if d := cmp.Diff([]string{"open", "delete"}, k.calls); d != "" {
		t.Error(d)
	}
}

func TestReleaseCountsPortDrops(t *testing.T) {
	p, k := newTestPlug(t, qdisc{kind: "plug", handle: handle, stats: Stats{Frames: 1}})
	k.roots[port].stats.Drops = 10
	drops := nltest.Dial(func(reqs []netlink.Message) ([]netlink.Message, error) {
		if reqs[0].Header.Type == unix.RTM_DELQDISC {
			k.roots[port].stats.Drops += 5
		}
		return k.serve(reqs)
	})
	p.conn = drops
	if got, err := p.Release(t.Context(), proxy, port); err != nil || got.PortDrops != 5 {
		t.Errorf("got %+v, %v, want 5 drops", got, err)
	}
}

func TestAQueueHasSettledWhenWhatItHeldAtFirstHasLeft(t *testing.T) {
	first := Stats{Frames: 10, Bytes: 1000, Passed: 5000}
	for name, tt := range map[string]struct {
		now  Stats
		want bool
	}{
		"nothing has left": {first, false},
		"as much has, but what came later may have overtaken": {Stats{Frames: 20, Passed: 6000}, false},
		"so much has that each flow had its turn":             {Stats{Frames: 20, Passed: 13000}, true},
		"it was dropped, and others came":                     {Stats{Frames: 20, Passed: 5000, Drops: 10}, false},
		"it is empty: another discipline counts":              {Stats{}, true},
		"another discipline counts":                           {Stats{Frames: 3}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tt.now.settled(first); got != tt.want {
				t.Errorf("%+v after %+v: %v", tt.now, first, got)
			}
		})
	}
}

func TestReleaseGivesUp(t *testing.T) {
	for _, tt := range []struct {
		name string
		prep func(*kernel)
	}{
		{"when frames do not go", func(k *kernel) { k.stuck = true }},
		{"when many frames do not go", func(k *kernel) { k.stuck, k.roots[proxy].stats.Frames = true, 1000 }},
		{"when the port's queue stays full", func(k *kernel) {
			k.roots[proxy].stats.Frames = 1000
			k.roots[port].stats.Frames = 1000
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, k := newTestPlug(t, qdisc{kind: "plug", handle: handle, stats: Stats{Frames: 5}})
			tt.prep(k)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if _, err := p.Release(ctx, proxy, port); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want DeadlineExceeded", err)
			}
			if !k.roots[proxy].ours() {
				t.Error("the plug, and with it what it holds, was removed")
			}
		})
	}
}

func TestSettle(t *testing.T) {
	for _, tt := range []struct {
		name   string
		frames []int    // in the queue, one look after the other
		passed []uint64 // bytes let through by then
		want   error
	}{
		{"an empty queue is not waited for", []int{0}, []uint64{7}, nil},
		{"a queue is waited for until it was empty", []int{9, 4, 0}, []uint64{7, 8, 9}, nil},
		{"what comes after is not waited for", []int{3, 9, 9, 9}, []uint64{7, 8, 2006, 7 + 300*fair}, nil},
		{"a queue that does not move is given up in the end", []int{3}, []uint64{7}, context.DeadlineExceeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, k := newTestPlug(t, qdisc{kind: "noqueue"})
			looks := 0
			p.conn = nltest.Dial(func(reqs []netlink.Message) ([]netlink.Message, error) {
				if reqs[0].Header.Type == unix.RTM_GETQDISC {
					at := min(looks, len(tt.frames)-1)
					k.roots[port].stats = Stats{Frames: tt.frames[at], Bytes: 100 * tt.frames[at], Passed: tt.passed[at]}
					looks++
				}
				return k.serve(reqs)
			})
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if err := p.Settle(ctx, port); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if tt.want == nil && looks != len(tt.frames) {
				t.Errorf("looked %d times, want %d", looks, len(tt.frames))
			}
		})
	}
}

func FuzzParseQdisc(f *testing.F) {
	f.Add(request(unix.RTM_NEWQDISC, 0, 3, plugOption(plugLimit, 1<<20)).Data)
	f.Add(appendAttribute(tcmsg(1, handle, tcRoot), tcaStats2, appendAttribute(nil, statsQueue, make([]byte, 20))))
	f.Add(appendAttribute(tcmsg(1, handle, tcRoot), tcaStats2, appendAttribute(nil, statsBasic, make([]byte, 3))))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, q, err := parseQdisc(b)
		if err == nil && (q.stats.Frames < 0 || q.stats.Bytes < 0 || q.stats.Drops < 0) {
			t.Errorf("negative counts: %+v", q.stats)
		}
	})
}

func TestTapReaderLimits(t *testing.T) {
	for _, tt := range []struct {
		name   string
		limits Limits
		want   Collected
	}{
		{"bounds frames", Limits{Bytes: 1000, Frames: 2}, Collected{Frames: 2, Drops: 1}},
		{"bounds bytes", Limits{Bytes: 119, Frames: 10}, Collected{Frames: 1, Drops: 2}},
		{"keeps all within both", Limits{Bytes: 180, Frames: 3}, Collected{Frames: 3}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &TapReader{limits: tt.limits}
			b := make([]byte, 60)
			var want []frame.Frame
			for i := range 3 {
				b[0] = byte(i)
				r.keep(b)
				if i < tt.want.Frames {
					want = append(want, frame.Frame{Data: bytes.Clone(b)})
				}
			}
			if r.total != tt.want {
				t.Errorf("got %+v, want %+v", r.total, tt.want)
			}
			if d := cmp.Diff(want, r.frames); d != "" {
				t.Error(d)
			}
		})
	}
}
