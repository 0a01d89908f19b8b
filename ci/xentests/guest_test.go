// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xentests

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/ci/testbed/vmtest"
	"github.com/umbra-vm/umbra/ci/witness"
	"github.com/umbra-vm/umbra/ci/xenlab"
	"github.com/umbra-vm/umbra/ci/xenlab/dom0"
	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// run is set by "make xen-test": a Xen host inside QEMU is slow, and no part of
// "make test". patched is what "make xen" has built. patience ends a test that hangs: it
// is no bound that anything has to meet.
var (
	run      = flag.Bool("xen", false, "run the tests, which take half an hour")
	patched  = flag.String("patched", "", "`directory` of the patched Xen, to test that too")
	patience = flag.Duration("patience", 25*time.Minute, "`time` after which a test hangs")
)

// poll is how often a guest is asked that is waited for.
const poll = time.Second

// A lab is a Xen host and the network that its cards are on.
type lab struct {
	t      *testing.T
	ctx    context.Context
	end    context.CancelFunc // of ctx
	began  time.Time
	bed    *testbed.Bed
	xen    xen
	dom0   *dom0.Dom0
	bundle *image.Bundle

	// mortal says that the test is about a guest whose kernel dies.
	mortal bool

	// guest is where the guest is, or was to be.
	guest *xenlab.Domain
	moves int

	printed printed
}

// printed is what was shown of each guest and program.
type printed struct {
	mu    sync.Mutex
	lines map[string][]string
}

func (p *printed) add(who, line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lines == nil {
		p.lines = make(map[string][]string)
	}
	p.lines[who] = append(p.lines[who], line)
}

func (p *printed) contains(who, text string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.lines[who], func(line string) bool { return strings.Contains(line, text) })
}

// What is tested on: Debian's Xen, and the one with the patches.
type xen struct {
	name     string
	patched  bool
	assemble func() (*dom0.Dom0, error)
}

var (
	stockXen   = xen{"stock", false, sync.OnceValues(func() (*dom0.Dom0, error) { return assemble("") })}
	patchedXen = xen{"patched", true, sync.OnceValues(func() (*dom0.Dom0, error) { return assemble(*patched) })}
)

// guestImage and both kinds of dom0 are built once for all tests.
var guestImage = sync.OnceValues(func() (*image.Bundle, error) {
	src, err := image.FindSource(context.Background(), "")
	if err != nil {
		return nil, err
	}
	// A guest inside of a guest has no time for more.
	pace := []string{"-udp-interval", "50ms", "-tcp-interval", "50ms"}
	return rig.Build(context.Background(), rig.GuestOptions{
		Dir: filepath.Join(workDir, "guest"), Drivers: []string{"e1000", "e1000e", "8139cp"}, Classes: []string{"xen-net", "xen-pci"}, Witness: pace,
		Before:  []string{"linear"},
		Extra:   "[machine]\nmemory_mb = 192\n" + linear, // all of which is carried by every move
		Options: image.Options{Source: src, Progress: progress},
	})
})

// linear keeps each frame within a page. QEMU's e1000e drops what crosses into one that
// does not follow on the host (net_tx_pkt_add_raw_fragment of hw/net/net_tx_pkt.c, behind
// an IOMMU), and of a restored HVM guest no two pages do: Xen 4.17 populates them one by
// one, downwards. QEMU's other NICs, and hardware, do not mind.
const linear = `
[packages]
names = ["ethtool"]

[[service]]
name = "linear"
exec = ["/usr/sbin/ethtool", "-K", "` + rig.Role + `", "sg", "off"]
type = "oneshot"
needs = ["` + rig.Role + `"]
`

func assemble(over string) (*dom0.Dom0, error) {
	ctx := context.Background()
	bundle, err := guestImage()
	if err != nil {
		return nil, err
	}
	src, err := image.FindSource(ctx, "")
	if err != nil {
		return nil, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(workDir, "dom0-")
	if err != nil {
		return nil, err
	}
	files, err := xenlab.Stage(bundle, dir)
	if err != nil {
		return nil, err
	}
	files[umbraFile] = filepath.Join(dir, "umbra")
	if err := image.BuildGo(ctx, src, "github.com/umbra-vm/umbra/cmd/umbra", files[umbraFile]); err != nil {
		return nil, err
	}
	return dom0.Build(ctx, dom0.Options{
		CacheDir: filepath.Join(cache, "umbra"), Source: src, Dir: dir, Over: over, Files: files, Progress: progress,
	})
}

// umbraFile is umbra itself in dom0.
const umbraFile = "/usr/bin/umbra"

func progress(step string) { fmt.Fprintln(os.Stderr, "xentests:", step) }

// workDir is where dom0 and image are built.
var workDir string

func TestMain(m *testing.M) {
	flag.Parse()
	var err error
	if workDir, err = os.MkdirTemp("", "umbra-xen-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(workDir)
	os.Exit(code)
}

// open builds what is missing and makes the network.
func open(t *testing.T, x xen) *lab {
	t.Helper()
	if testing.Short() || !*run {
		t.Skip("a Xen test: make xen-test")
	}
	if x.patched && *patched == "" {
		t.Skip("a test of the patched Xen, and no -patched given: make xen-test")
	}
	d, err := x.assemble()
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := guestImage()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeoutCause(vmtest.Context(t), *patience, errors.New("the test hangs"))
	t.Cleanup(cancel)
	ctx, end := context.WithCancel(ctx)
	t.Cleanup(end)
	l := &lab{t: t, ctx: ctx, end: end, began: time.Now(), xen: x, dom0: d, bundle: bundle}
	if l.bed, err = testbed.Open(ctx, testbed.Options{Dir: vmtest.Dir(t)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.bed.Close() })
	l.heartbeat()
	return l
}

// heartbeat tells, as long as the test lasts, what the peer has had of the guest.
func (l *lab) heartbeat() {
	l.beside(func(ctx context.Context) {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(20 * time.Second):
				v := l.bed.Witness.Snapshot()
				l.say("the peer has %d records and %d datagrams", v.FromGuest.Records, v.UDPOut.Received)
			}
		}
	})
}

// beside runs f beside the test, until that is over or ended; then f's context ends, and f
// is waited for.
func (l *lab) beside(f func(context.Context)) {
	ctx, cancel := context.WithCancel(l.ctx)
	var running sync.WaitGroup
	running.Go(func() { f(ctx) })
	l.t.Cleanup(func() { cancel(); running.Wait() })
}

// say shows a line at once, so that somebody who waits sees that it goes on.
func (l *lab) say(format string, args ...any) {
	line := fmt.Sprintf("%s %6.1fs ", strings.TrimPrefix(l.t.Name(), "Test"), time.Since(l.began).Seconds()) + fmt.Sprintf(format, args...)
	fmt.Fprintln(os.Stderr, line)
}

// create boots the guest on a host and waits until its witness has gone on.
func (l *lab) create(h *xenlab.Host, pci []xenlab.Passed) {
	l.t.Helper()
	l.start(h, xenlab.DomainOptions{PCI: pci, Leaves: l.xen.patched})
}

// start is create for a guest of any kind.
func (l *lab) start(h *xenlab.Host, opts xenlab.DomainOptions) {
	l.t.Helper()
	opts.Name, opts.Bundle = "guest0", l.bundle
	err := l.boot(h, opts)
	if errors.Is(err, context.DeadlineExceeded) {
		l.say("the guest hangs in its boot; it is made once more")
		l.dump(h)
		if _, err := h.Run(l.ctx, "xl destroy "+opts.Name); err != nil {
			l.t.Fatal(err)
		}
		err = l.boot(h, opts)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	l.say("the witness is connected")
	// Before that, what a driver gives up before the shadow is active is lost.
	for !l.printed.contains(l.guest.Name, rig.Settled) {
		l.pause("the guest to be ready for a move")
	}
	l.traffic()
}

// bootPatience ends the wait for a guest that hangs in its boot, as one of some 15 has: its
// kernel, before it prints anything, waits in the emulated processor of an emulated host.
const bootPatience = 5 * time.Minute

// boot makes the guest and waits until its witness is connected. An error that matches
// [context.DeadlineExceeded] says that it hangs.
func (l *lab) boot(h *xenlab.Host, opts xenlab.DomainOptions) error {
	l.t.Helper()
	l.say("creating the guest, %s, with %v", cmp.Or(opts.Kind, image.XenHVM), opts.PCI)
	d, err := h.Create(l.ctx, opts)
	if err != nil {
		return err
	}
	l.guest = d
	l.watch()
	l.say("created")
	ctx, cancel := context.WithTimeout(l.ctx, bootPatience)
	defer cancel()
	if err := l.bed.Witness.Wait(ctx); err != nil {
		return fmt.Errorf("the guest's witness did not connect: %w", err)
	}
	return nil
}

// restore moves the guest to other devices of its host by "xl save" and "xl restore", and
// waits until its role has recovered and its witness has gone on.
func (l *lab) restore(pci []xenlab.Passed) {
	l.t.Helper()
	l.restoreAs(l.next(pci))
	l.arrived()
}

// restoreAs is restore without the wait.
func (l *lab) restoreAs(opts xenlab.DomainOptions) {
	l.t.Helper()
	l.say("moving the guest to %v", opts.PCI)
	d, at, err := l.guest.Restore(l.ctx, opts)
	if err != nil {
		l.t.Fatal(err)
	}
	l.say("restored after %.1f s; saved after %.1f s", at.Restored.Sub(at.Began).Seconds(), at.Saved.Sub(at.Began).Seconds())
	l.isNow(d)
}

// migrate moves the guest to a host, which may be the one that it is on, by "xl migrate"
// with its further options, and waits like restore.
func (l *lab) migrate(to *xenlab.Host, pci []xenlab.Passed, options string) {
	l.t.Helper()
	l.migrateAs(to, l.next(pci), options)
	l.arrived()
}

// migrateAs is migrate without the wait.
func (l *lab) migrateAs(to *xenlab.Host, opts xenlab.DomainOptions, options string) {
	l.t.Helper()
	l.say("migrating the guest to %s with %v", to.Name, opts.PCI)
	d, err := l.guest.Migrate(l.ctx, to, opts, options, l.show("xl"))
	if err != nil {
		l.t.Fatal(err)
	}
	l.say("migrated")
	l.isNow(d)
}

// next is how the guest is to be called after the next move.
func (l *lab) next(pci []xenlab.Passed) xenlab.DomainOptions {
	l.moves++
	opts := l.guest.DomainOptions
	opts.Name, opts.PCI = fmt.Sprint("guest", l.moves), pci
	return opts
}

// isNow says where the guest is now.
func (l *lab) isNow(d *xenlab.Domain) {
	l.guest = d
	l.watch()
}

// arrived waits until the guest, which has been moved, has recovered.
func (l *lab) arrived() {
	l.t.Helper()
	tl := l.timeline(l.moves)
	l.traffic()
	var b strings.Builder
	if err := ctl.RenderTimeline(&b, tl); err != nil {
		l.t.Fatal(err)
	}
	l.say("recovered, by the guest's clock:\n%s", b.String())
	l.say("longest gap seen by the peer: %v", l.bed.Witness.Snapshot().FromGuest.LongestGap.Round(time.Millisecond))
}

// told asserts what a patched Xen has left in the store for the guest.
func (l *lab) told(want string) {
	l.t.Helper()
	got, err := l.guest.Arrival(l.ctx)
	if err != nil {
		l.t.Fatal(err)
	}
	l.say("control/arrival: %s", got)
	if got != want {
		l.t.Errorf("control/arrival is %q, want %q", got, want)
	}
}

// notified waits until the guest, where it is now, has said that the VM generation id's
// notification came.
func (l *lab) notified() {
	l.t.Helper()
	const want = "told of a migration by=vmgenid"
	for !l.printed.contains(l.guest.Name, want) {
		select {
		case <-l.ctx.Done():
			l.t.Fatalf("the guest did not print %q", want)
		case <-time.After(poll):
		}
	}
}

// watch shows what the guest prints where it is, until the test has ended. A kernel that
// dies ends it: what it was to do is waited for in vain.
func (l *lab) watch() {
	d := l.guest
	out := l.show(d.Name)
	show := out.show
	out.show = func(s string) {
		show(s)
		if !l.mortal && strings.Contains(s, "Kernel panic - not syncing") {
			l.t.Errorf("the kernel of %s has died", d.Name)
			l.end()
		}
	}
	l.beside(func(ctx context.Context) {
		// It ends with an error, because it is ended.
		_ = d.Follow(ctx, out)
	})
}

// show shows the lines that somebody writes.
func (l *lab) show(who string) *lines {
	return &lines{show: func(s string) {
		l.printed.add(who, s)
		l.say("%s: %s", who, s)
	}}
}

// lines calls show for every line written.
type lines struct {
	show func(string)
	rest []byte
}

func (w *lines) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		line, rest, ok := bytes.Cut(w.rest, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		w.show(strings.TrimSpace(string(line)))
		w.rest = rest
	}
}

// timeline waits until the guest's role has had n recoveries that ended in passive
// mode, the boot not counted, and returns the last one.
func (l *lab) timeline(n int) ctl.Timeline {
	l.t.Helper()
	var last error
	for {
		tls, err := timelines(l.ctx, l.guest)
		if err == nil && len(tls) > n {
			if _, done := tls[n].Stamp(ctl.StampPassive); done {
				return tls[n]
			}
			err = fmt.Errorf("stamps %v, %s", tls[n].Stamps, tls[n].Error)
		} else if err == nil {
			err = fmt.Errorf("%d timelines, the boot's included", len(tls))
		}
		last = err
		select {
		case <-l.ctx.Done():
			l.t.Fatalf("waiting for recovery %d: %v", n, last)
		case <-time.After(poll):
		}
	}
}

// callTimeout ends a question to an agent that died over it.
const callTimeout = 20 * time.Second

func timelines(ctx context.Context, d *xenlab.Domain) ([]ctl.Timeline, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var tls []ctl.Timeline
	err := call(ctx, d, ctl.CmdTimeline, ctl.RoleArgs{Role: rig.Role}, &tls)
	return tls, err
}

// call runs a command of the domain's agent, over a connection of its own.
func call(ctx context.Context, d *xenlab.Domain, cmd string, args, out any) error {
	c, err := d.Ctl()
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Call(ctx, cmd, args, out)
}

// traffic waits until the witness has gone on in both directions, and by UDP.
func (l *lab) traffic() {
	l.t.Helper()
	const enough = 20
	first := l.bed.Witness.Snapshot()
	for {
		now := l.bed.Witness.Snapshot()
		if now.FromGuest.Records >= first.FromGuest.Records+enough &&
			now.ToGuest.Records >= first.ToGuest.Records+enough &&
			now.UDPOut.Received >= first.UDPOut.Received+enough {
			return
		}
		select {
		case <-l.ctx.Done():
			l.t.Fatalf("the witness stands still: from %+v to %+v", first.Verdict, now.Verdict)
		case <-time.After(poll):
		}
	}
}

// unharmed ends the run: nothing was reset, lost or altered.
func (l *lab) unharmed() {
	l.t.Helper()
	l.judge(witness.Verdict.Err)
}

// judge ends the witness and has harm look at its verdict.
func (l *lab) judge(harm func(witness.Verdict) error) {
	l.t.Helper()
	v, err := l.bed.Witness.Final(l.ctx)
	if err != nil {
		l.t.Errorf("the witness did not finish: %v", err)
	}
	if err := l.bed.Fault(); err != nil {
		l.t.Errorf("not the guest's fault: %v", err)
	}
	if err := harm(v); err != nil {
		l.t.Error(err)
	}
	l.t.Logf("verdict: %d resets, %d of %d bytes lost, %d of %d datagrams missing, longest gap %v",
		v.Resets, v.BytesLost, v.BytesSent, v.UDPOut.Missing, v.UDPOut.Sent, v.FromGuest.LongestGap.Round(time.Millisecond))
}

// dumpTime bounds dump.
const dumpTime = time.Minute

// dump shows what a person needs to see of a test that failed.
func (l *lab) dump(h *xenlab.Host) {
	ctx, cancel := context.WithTimeout(context.Background(), dumpTime)
	defer cancel()
	select {
	case <-h.VM.Done(): // Xen reboots when it dies, which ends QEMU
		l.t.Logf("%s has ended: %v\n%s", h.Name, h.VM.Wait(ctx), h.VM.Stderr())
		return
	default:
	}
	for _, line := range []string{
		// To the host's console: virtual processors, timers, interrupts and VMCBs, and of
		// each guest what Xen emulates. A guest that stands still waits for one of them.
		"for k in q r a I v; do xl debug-keys $k; done; for d in $(xl list | tail -n +3 | cut -c42-46); do xen-hvmctx $d; done",
		// And what the processes of a guest with PV drivers wait for, to its console.
		"for d in $(xl list | tail -n +3 | cut -d' ' -f1); do xl sysrq $d 8; sleep 1; xl sysrq $d t; done; sleep 20",
		"xl list", "tail -n 1500 /var/log/xen/*", "brctl show; ip addr", "xl dmesg | tail -n 60", "cat /run/guest*.cfg", "free", "ls /run /run/xen", "xenstore-ls",
	} {
		out, err := h.Run(ctx, line)
		l.t.Logf("%s (%v):\n%s", line, err, out)
	}
	if l.guest == nil || l.guest.Host != h {
		return
	}
	if tls, err := timelines(ctx, l.guest); err == nil {
		for _, tl := range tls {
			var b strings.Builder
			if err := ctl.RenderTimeline(&b, tl); err == nil {
				l.t.Logf("%s%s", b.String(), tl.Error)
			}
		}
	}
	if v, err := json.MarshalIndent(l.bed.Witness.Snapshot().Verdict, "", " "); err == nil {
		l.t.Logf("witness: %s", v)
	}
}
