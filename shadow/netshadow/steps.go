// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netshadow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/shadow"
	"github.com/umbra-vm/umbra/shadow/ctl"
	"github.com/umbra-vm/umbra/shadow/journal"
	"github.com/umbra-vm/umbra/shadow/netshadow/harvest"
	"github.com/umbra-vm/umbra/shadow/netshadow/harvest/frame"
	"github.com/umbra-vm/umbra/shadow/netshadow/hold"
	"github.com/umbra-vm/umbra/shadow/netshadow/shortcut"
)

// netShadow is the shadow of one role. The Manager calls its steps one after
// the other; mu guards what Status and Log read meanwhile.
type netShadow struct {
	class   *Class
	log     *slog.Logger
	proxy   proxy
	limits  Limits
	journal *journal.Journal

	number     int // of the role within the class, the same for every agent of this boot
	shown      int // ifindex of the port that has shown the role's MAC
	armed      bool
	target     harvest.Target   // of the harvest while it is armed
	counters   harvest.Counters // as of the last collection
	pending    []frame.Frame    // harvested, not yet re-sent
	shelf      hold.Shelf       // where pending outlives this process
	account    *account
	tap        *os.File
	reader     *hold.TapReader // while the user owns the root queueing discipline
	recorder   *recorder
	neighbours *neighbours
	shortcut   *shortcut.Shortcut // nil if the role is to have none
	standby    string             // the standby's interface, "" if there is none

	mu       sync.Mutex
	iface    string        // the device's interface, "" while there is none
	index    int           // its ifindex, also after it has gone
	watching chan struct{} // closed once what the port loses is kept
}

func newShadow(c *Class, p proxy, limits Limits, j *journal.Journal) (*netShadow, error) {
	log := c.Logger.With("role", p.name)
	s := &netShadow{class: c, log: log, proxy: p, limits: limits, journal: j, number: len(c.shadows)}
	acc, err := newAccount(p.tap, j, log)
	if err != nil {
		return nil, err
	}
	s.account = acc
	s.shelf = hold.NewShelf(filepath.Join(c.FrameDir, p.name+".frames"))
	if s.pending, err = s.shelf.Frames(); err != nil {
		log.Error("what the last agent had harvested is lost, and not counted", "err", err)
	}
	if n := len(s.pending); n > 0 {
		log.Info("frames are there that the last agent has harvested", "frames", n)
	}
	rec, err := newRecorder(c.settings, p.name, j, log)
	if err != nil {
		return nil, err
	}
	s.recorder = rec
	if limits.Shortcut {
		s.shortcut = shortcut.New(log, p.name)
	}
	s.neighbours, err = newNeighbours(p, limits.Hold.Bytes, j, log)
	return s, err
}

// Activate holds what applications send. The harvest is armed first: frames
// that are sent while the kernel exchanges the proxy's queueing discipline are
// refused by it, and harvested too.
func (s *netShadow) Activate(ctx context.Context, old shadow.Old, rec *shadow.Recovery) error {
	there, err := s.proxy.exists()
	if err != nil || !there {
		return err
	}
	s.closeShortcut() // what is to be held has to come to the proxy
	s.receive(true)
	s.confess(ctx, rec)
	bond := ifindex(s.proxy.name)
	s.arm(ctx, old, rec)
	if err := s.openTap(ctx); err != nil {
		return err
	}
	// Frames reach the TAP where there is no plug, and where a device
	// vanished and the bond failed over before this moment.
	if err := s.read(); err != nil {
		return err
	}
	err = s.class.plug.Hold(ctx, bond, s.limits.Hold.Bytes)
	s.neighbours.pin()
	s.recorder.pause(ctx)
	if err := s.stuck(old); err != nil {
		return err
	}
	if err == nil && impatient(old) {
		return s.Detach(ctx, old, rec)
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, hold.ErrRootBusy) {
		s.log.Info("the proxy's root queueing discipline is the user's: frames are held behind the TAP")
	} else {
		s.log.Warn("frames cannot be held on the proxy, they are held behind the TAP", "err", err)
	}
	// Only the TAP as the active port holds now, and the dead one must be
	// closed before.
	return errors.Join(s.Detach(ctx, old, rec), s.activate(s.proxy.tap))
}

// read begins to collect what reaches the TAP.
func (s *netShadow) read() (err error) {
	if s.reader == nil {
		s.account.reads(true)
		s.reader, err = hold.NewTapReader(s.log, s.tap, s.limits.Hold)
	}
	return err
}

// field is the role's harvest.
func (s *netShadow) field() (*harvest.Field, error) {
	h, err := s.class.harvester()
	if err != nil {
		return nil, err
	}
	return h.Field(s.number)
}

// confess counts what a predecessor took with it, and takes over its harvest. The
// recovery that it left may go on at any step.
func (s *netShadow) confess(ctx context.Context, rec *shadow.Recovery) {
	lost, seen, armed := s.account.claim()
	s.lostWithLast(lost, rec)
	if !armed {
		return
	}
	f, err := s.field()
	switch {
	case err != nil:
		s.log.Error("the harvest ended with the last agent: frames lost since are not counted", "err", err)
	case f.Armed():
		s.armed, s.counters = true, harvest.Counters{Seen: seen}
	default:
		s.confessEnded(ctx, f, seen, rec)
	}
}

// lostWithLast counts frames that a predecessor had in its memory only.
func (s *netShadow) lostWithLast(frames int, rec *shadow.Recovery) {
	if frames > 0 {
		s.log.Warn("frames were lost with the last agent", "frames", frames)
		rec.Count(ctl.Frames{Dropped: frames})
	}
}

// confessEnded counts what a predecessor had harvested that was killed as it ended the
// harvest. It may have come as far as the shelf: what is there is re-sent, and counted as
// lost all the same.
func (s *netShadow) confessEnded(ctx context.Context, f *harvest.Field, seen uint64, rec *shadow.Recovery) {
	if err := f.Sync(ctx); err != nil {
		s.log.Error("frames that were harvested last are lost, and not counted", "err", err)
		return
	}
	s.counters = f.Counters()
	s.lostWithLast(int(s.counters.Seen)-int(seen), rec)
	s.account.collected(s.counters.Seen, false)
}

// arm turns the harvest to the device's interface. Without eBPF a recovery works all
// the same, and the frames in the driver's ring are lost.
func (s *netShadow) arm(ctx context.Context, old shadow.Old, rec *shadow.Recovery) {
	s.mu.Lock()
	index := s.index
	s.mu.Unlock()
	if index == 0 {
		// A predecessor opened it, and was killed in this recovery.
		if names, err := s.class.Hardware.ClassDevices(old.Device, "net"); err == nil && len(names) > 0 {
			index = ifindex(names[0])
		}
	}
	t := s.targetOf(index, rec)
	if s.armed {
		if err := s.collect(ctx, rec, false); err != nil {
			s.log.Warn("harvest of an earlier device not ended", "err", err)
		}
		s.aim(t)
		return
	}
	f, err := s.field()
	if err == nil {
		s.counters = f.Counters()
		s.account.arms(s.counters.Seen)
		err = f.Arm(ctx, t, found(rec))
	}
	if errors.Is(err, harvest.ErrArmed) { // by a predecessor whose account was not readable
		err = f.Aim(t)
	}
	if err != nil {
		s.log.Error("no harvest: frames in the old driver's ring are lost, and cannot be counted", "err", err)
		return
	}
	s.armed, s.target = true, t
}

// alive reports whether the device of a recovery worked when it was given up.
func alive(rec *shadow.Recovery) bool {
	cause := rec.Timeline().Cause
	return cause == ctl.CauseReload || cause == ctl.CauseUnplug
}

// found is when the device of a recovery was seen to be gone, on CLOCK_MONOTONIC.
func found(rec *shadow.Recovery) time.Duration {
	if at, ok := rec.Timeline().Stamp(ctl.StampDetected); ok {
		return time.Duration(at)
	}
	return time.Duration(shadow.Now())
}

func (s *netShadow) targetOf(device int, rec *shadow.Recovery) harvest.Target {
	return harvest.Target{Device: device, Proxy: ifindex(s.proxy.name), Alive: alive(rec)}
}

// aim changes whose frames are harvested.
func (s *netShadow) aim(t harvest.Target) {
	if !s.armed || t == s.target {
		return
	}
	f, err := s.field()
	if err == nil {
		err = f.Aim(t)
	}
	if err != nil {
		s.log.Warn("frames are not harvested where they are freed now, and lost", "err", err)
		return
	}
	s.target = t
}

// Open makes dev's interface a port of the proxy, creating the proxy for the
// role's first device.
func (s *netShadow) Open(ctx context.Context, dev drivers.Device, rec *shadow.Recovery) error {
	s.confess(ctx, rec)
	l, err := waitLink(ctx, s.class.Hardware, dev)
	if err != nil {
		return err
	}
	iface := l.Attrs().Name
	bond, err := s.proxy.find()
	if err != nil {
		return err
	}
	if err := s.openTap(ctx); err != nil {
		return err
	}
	back := bond != nil && s.replaces(ctx, iface)
	switch {
	case back:
		s.recorder.pause(ctx)
		s.recorder.forget(ctx, []string{s.standby})
		s.receive(false)
	case bond != nil && !s.armed && rec.Timeline().Cause != shadow.CauseBoot:
		// A predecessor has given the old device up already.
		s.arm(ctx, shadow.Old{}, rec)
	}
	mac, err := s.mac(bond, l)
	if err != nil {
		return err
	}
	if err := s.recorder.begin(ctx, iface); err != nil {
		return err
	}
	if bond == nil {
		s.class.watchRequests()
		if bond, err = s.proxy.create(mac); err != nil {
			return err
		}
		// The kernel looks for duplicates and routers at once (IPv6). That would
		// wait in the TAP for the first recovery.
		if err := s.read(); err != nil {
			return err
		}
	}
	if err := s.fitMTU(ctx, bond, iface); err != nil {
		return err
	}
	if iface == s.standby { // a port already, maybe since the role had another MAC
		if err := s.proxy.wear(l, mac); err != nil && !errors.As(err, new(*refusedError)) {
			return err
		}
	}
	if mac, err = s.join(dev, bond, l, mac); err != nil {
		return err
	}
	s.mu.Lock()
	s.iface, s.index = iface, l.Attrs().Index
	s.mu.Unlock()
	rec.Stamp(ctl.StampOpened)
	// Before the link is waited for: some settings take it down again.
	if err := s.recorder.replay(ctx, iface, rec); err != nil {
		return err
	}
	rec.Stamp(ctl.StampReplayed)
	if s.recorder.fresh() {
		// Nothing that follows changes a setting, and programs wait for this.
		s.record(ctx, iface)
	}
	if err := s.proxy.insist(l, mac); err != nil {
		return err
	}
	// With a link at once, switches learn where the role is now before the
	// old driver is torn down, which can take a while.
	quick, cancel := context.WithTimeout(ctx, quickLink)
	defer cancel()
	if err := s.usable(quick, rec); err != nil && quick.Err() == nil {
		return err
	}
	return nil
}

// quickLink is what a device without negotiation needs to report its link
// (virtio, most virtual functions); others need seconds.
const quickLink = 50 * time.Millisecond

// usable waits for the link of the device's interface and shows the role's MAC
// on it. If the plug holds what is sent, the port becomes the active one at
// once: what the kernel then sets on it (filters, modes) is set before traffic
// comes, not in its midst. QEMU's e1000 takes no frame for a second after each
// such change (hw/net/e1000.c, set_rx_control).
func (s *netShadow) usable(ctx context.Context, rec *shadow.Recovery) error {
	s.mu.Lock()
	iface, index := s.iface, s.index
	s.mu.Unlock()
	if err := waitCarrier(ctx, iface); err != nil {
		return err
	}
	if s.shown == index {
		return nil
	}
	rec.Stamp(ctl.StampLink)
	if s.replaces(ctx, iface) {
		return nil // see comeBack
	}
	s.shown = index
	ctx = context.WithoutCancel(ctx) // what follows is short, and is done or not
	if _, err := s.class.plug.Stats(ctx, ifindex(s.proxy.name)); err == nil {
		if err := s.activate(iface); err != nil {
			return err
		}
	}
	s.showMAC(ctx, index)
	return nil
}

// fitMTU gives the proxy the MTU that was asked for, or the largest that the
// new device can take: a bond refuses a port that cannot take its own MTU
// (bond_main.c, bond_enslave).
func (s *netShadow) fitMTU(ctx context.Context, bond *netlink.Bond, iface string) error {
	want := s.recorder.mtu(bond.MTU)
	ok, largest, err := s.class.settings.CanMTU(ctx, iface, want)
	if err != nil {
		return err
	}
	fit := want
	if !ok {
		fit = largest
		s.recorder.deferMTU(want, fmt.Sprintf("%s takes at most %d", iface, largest))
		s.log.Warn("the new device takes a smaller MTU", "iface", iface, "mtu", largest, "wanted", want)
	}
	if fit == bond.MTU {
		return nil
	}
	if err := s.proxy.nl.LinkSetMTU(bond, fit); err != nil {
		return fmt.Errorf("set the MTU of %s to %d: %w", s.proxy.name, fit, err)
	}
	return nil
}

// Intact reports whether dev's interface is the active port and nothing is
// held.
func (s *netShadow) Intact(ctx context.Context, dev drivers.Device) (bool, error) {
	there, err := s.proxy.exists()
	if err != nil || !there {
		return false, err
	}
	if err := s.openTap(ctx); err != nil {
		return false, err
	}
	names, err := s.class.Hardware.ClassDevices(dev, "net")
	if err != nil || len(names) == 0 {
		return false, err
	}
	index := ifindex(names[0])
	s.mu.Lock()
	s.iface, s.index = names[0], index
	s.mu.Unlock()
	_, active, err := s.proxy.ports()
	if err != nil || active != names[0] {
		return false, err
	}
	if _, err := s.class.plug.Stats(ctx, ifindex(s.proxy.name)); !errors.Is(err, hold.ErrNotPlugged) {
		return false, err
	}
	s.neighbours.unpin()
	s.neighbours.watch(ctx)
	s.listen()
	s.keepLosses(index)
	s.openShortcut(names[0], index)
	if err := s.recorder.adopt(ctx, names[0]); err != nil {
		return true, err
	}
	s.class.Recording(s.proxy.name)
	return true, nil
}

// record has changes of settings recorded, and says so. Without it a role works all the
// same, and nobody is to wait for it.
func (s *netShadow) record(ctx context.Context, iface string) {
	if err := s.recorder.resume(ctx, iface); err != nil {
		s.log.Warn("changes of settings are not recorded", "err", err)
	}
	s.class.Recording(s.proxy.name)
}

// openTap opens the TAP, or takes the file that a predecessor left, and leaves
// a duplicate with the store.
func (s *netShadow) openTap(ctx context.Context) error {
	if s.tap != nil {
		return nil
	}
	if f, ok := s.class.Store.Inherited(s.proxy.tap); ok {
		s.tap = f
		return nil
	}
	f, err := hold.OpenTap(s.proxy.tap)
	if err != nil {
		return err
	}
	if err := s.class.Store.Put(ctx, s.proxy.tap, f); err != nil {
		// The role works; but if this process dies while there is no
		// device, the proxy loses its carrier.
		s.log.Error("the TAP is not kept beyond this process", "err", err)
	}
	s.tap = f
	return nil
}

// Status fills in what the proxy and the log say.
func (s *netShadow) Status(st *ctl.RoleStatus) {
	s.mu.Lock()
	st.Iface = s.iface
	s.mu.Unlock()
	st.Proxy = s.proxy.name
	if s.limits.MAC != nil {
		st.MAC = s.limits.MAC.String() // until there is a proxy
	}
	fillLink(st, s.proxy.name)
	if held, err := s.class.plug.Stats(context.Background(), ifindex(s.proxy.name)); err == nil {
		st.Held = held.Frames
	}
	st.Log, st.Deferred = s.recorder.counts()
	if s.shortcut != nil {
		now := s.shortcut.State()
		st.Shortcut = &ctl.Shortcut{Routes: now.Routes, Obstacle: now.Obstacle}
	}
}

// Log returns the operations recorded for the role.
func (s *netShadow) Log() []ctl.LogEntry { return s.recorder.entries(s.proxy.name) }
