// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package harvest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Bounds of what is kept of a watched interface. The programs have one too: 1024
// frames in two seconds.
const (
	// earlyAge is how long before a device was found to be gone a frame may have been
	// lost to that. Most drivers give the kernel's watchdog 5 s.
	earlyAge = 10 * time.Second
	// earlyKept is how long after its loss a frame can be had at all: a driver that
	// resets its device keeps the kernel's network configuration locked, and so a
	// recovery waiting.
	earlyKept  = time.Minute
	earlyBytes = 8 << 20
)

// earlyObjects are the programs that are attached all the time, to functions and
// tracepoints that are come by when an interface has lost its carrier, or its device is
// about to be reset, and else never.
type earlyObjects struct {
	Refused    *ebpf.Program `ebpf:"refused"`
	Purged     *ebpf.Program `ebpf:"purged"`
	Reset      *ebpf.Program `ebpf:"reset"`
	TimedOut   *ebpf.Program `ebpf:"timed_out"`
	CarrierOff *ebpf.Program `ebpf:"carrier_off"`

	links []link.Link
}

func (o *earlyObjects) programs() []*ebpf.Program {
	return []*ebpf.Program{o.Refused, o.Purged, o.Reset, o.TimedOut, o.CarrierOff}
}

// attach loads and attaches the programs. They share maps with the others.
func (o *earlyObjects) attach(k objects) error {
	spec, err := loadPrograms()
	if err != nil {
		return err
	}
	opts := &ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{
		"samples": k.Samples, "watched": k.Watched, "listening": k.Listening,
	}}
	if err := spec.LoadAndAssign(o, opts); err != nil {
		*o = earlyObjects{}
		return unsupported(err)
	}
	for _, p := range o.programs() {
		l, err := attach(p)
		if err != nil {
			return errors.Join(err, o.close())
		}
		o.links = append(o.links, l)
	}
	return nil
}

// loaded reports whether the kernel has taken the programs.
func (o *earlyObjects) loaded() bool { return o.Refused != nil }

func (o *earlyObjects) close() error {
	if !o.loaded() {
		return nil
	}
	var errs []error
	for _, l := range o.links {
		errs = append(errs, l.Close())
	}
	for _, p := range o.programs() {
		errs = append(errs, p.Close())
	}
	*o = earlyObjects{}
	return errors.Join(errs...)
}

// watch is struct watch in bpf/harvest.c.
type watch struct {
	Since       uint64
	Taken       uint32
	Sent        uint16
	Role, Mixes uint8
	Trouble     int64
}

// Watch has the frames kept for a while that are freed because the interface has no
// carrier, or its device is reset, from now on until the field is armed. A driver that
// watches its link may take hardware that is gone for a pulled cable before anybody has
// noticed that it is gone: the kernel then empties the interface's queue, and refuses
// what comes. And if nothing is sent for seconds the kernel has the driver reset the
// device, and the driver gives up what is in its ring. The next Take after Arm returns
// what was lost of late. If it was a cable, or a mere reset, it is forgotten. 0 watches
// nothing. While the field is armed, or on a kernel without the functions that are
// traced, Watch does nothing.
//
// What is in the ring of a driver is had for certain if the driver frees what it gives up
// in another way than what it has sent: as dropped (dev_kfree_skb_any()), not as consumed
// (dev_consume_skb_any(), napi_consume_skb()). Whether it does is found out by its first
// packets. As long as one that does not is watched together with one that does, each of
// its packets pays for a lookup. From others the ring is had after an [Harvester.Alert],
// or if they leave the reset to a worker and wait for the hardware first, and this
// process is quicker: there is a sign of each reset.
func (f *Field) Watch(ifindex int) error {
	f.h.arming.Lock()
	defer f.h.arming.Unlock()
	if f.h.closed || !f.h.early.loaded() || len(f.aims) > 0 || f.watched == ifindex {
		return nil
	}
	err := f.unwatch()
	if ifindex != 0 && err == nil {
		f.watched, f.mixes = ifindex, false
		err = f.put(watch{})
	}
	if err == nil {
		err = f.h.listen()
	}
	if err != nil {
		return fmt.Errorf("harvest: watch interface %d: %w", ifindex, err)
	}
	return nil
}

// unwatch takes the field's interface out of the kernel's map.
func (f *Field) unwatch() error {
	if f.watched == 0 {
		return nil
	}
	err := f.h.kernel.Watched.Delete(uint32(f.watched))
	f.watched = 0
	return err
}

// troubleTime is how long after a sign of it a reset may begin: TROUBLE in
// bpf/harvest.c. A guest that has little time takes as long to get to active mode.
const troubleTime = 30 * time.Second

// standstill is how late a timer is that the guest stood still for: moved by a hypervisor
// whose guests' clocks go on.
const standstill = 5 * time.Second

// Alert says that devices may be gone: what their drivers give up is kept from now on
// and for 30 s, of all interfaces that are watched, and Arm need not attach anything.
// Meanwhile a packet that is sent pays for a lookup. now is the time on CLOCK_MONOTONIC.
func (h *Harvester) Alert(now time.Duration) error {
	h.arming.Lock()
	defer h.arming.Unlock()
	if h.closed {
		return fmt.Errorf("harvest: alert: %w", ErrClosed)
	}
	if err := h.alert(now); err != nil {
		return fmt.Errorf("harvest: alert: %w", err)
	}
	return nil
}

func (h *Harvester) alert(now time.Duration) error {
	var errs []error
	for i := range h.fields {
		if f := &h.fields[i]; f.watched != 0 {
			errs = append(errs, f.put(watch{Trouble: int64(now)}))
		}
	}
	return errors.Join(append(errs, h.expect(now))...)
}

// put writes the entry of the watched interface.
func (f *Field) put(w watch) error {
	w.Role = f.role
	if f.mixes {
		w.Mixes = 1
	}
	return f.h.kernel.Watched.Put(uint32(f.watched), w)
}

// expect has what drivers give up kept for a while, now that there was a sign. If the
// guest stood still in that time, it begins anew.
func (h *Harvester) expect(now time.Duration) error {
	if h.trouble != nil {
		h.trouble.Stop()
	}
	began := time.Now()
	var t *time.Timer
	t = time.AfterFunc(troubleTime, func() {
		h.arming.Lock()
		defer h.arming.Unlock()
		if h.closed || h.trouble != t { // it may have been too late to stop this one
			return
		}
		h.trouble = nil
		if passed := time.Since(began); passed > troubleTime+standstill {
			h.heed(h.alert(now + passed))
			return
		}
		h.heed(h.listen())
	})
	h.trouble = t
	return h.listen()
}

// heed logs what went wrong where nobody can be told.
func (h *Harvester) heed(err error) {
	if err != nil {
		h.log.Warn("harvest: what a device that is reset had is lost, or packets pay for a program of no use", "err", err)
	}
}

// expectReset is called when the kernel's programs have seen the sign of a reset.
func (h *Harvester) expectReset(now time.Duration) {
	h.arming.Lock()
	defer h.arming.Unlock()
	if !h.closed {
		h.heed(h.expect(now))
	}
}

// giveUp is called when the driver of the watched interface has been found to free what
// it has sent as it frees what it gives up.
func (f *Field) giveUp() {
	h := f.h
	h.arming.Lock()
	defer h.arming.Unlock()
	if h.closed || f.watched == 0 {
		return
	}
	f.mixes = true
	h.log.Debug("harvest: the driver frees what it has sent as others free what they give up", "ifindex", f.watched)
	h.heed(h.listen())
}

// adopt makes part of the harvest what was lost shortly before found, or since, and what
// is on its way from the programs.
func (f *Field) adopt(found time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.early.take(found) {
		f.samples = append(f.samples, s)
		f.kept += len(s.data)
	}
	f.early.adopted = true
}

// earlyLosses are the last frames that a watched interface has lost, oldest first.
type earlyLosses struct {
	frames  []sample
	bytes   int
	adopted bool // the field is armed: frames go to its samples
}

// lost is when an early sample was freed, on CLOCK_MONOTONIC.
func (s sample) lost() time.Duration { return time.Duration(s.number) }

// add keeps s, and lets go of what is too old, or too much.
func (e *earlyLosses) add(s sample) {
	e.frames = append(e.frames, s)
	e.bytes += len(s.data)
	first := slices.IndexFunc(e.frames, func(l sample) bool { return s.lost()-l.lost() <= earlyKept })
	for ; e.bytes > earlyBytes || first > 0; first-- {
		e.bytes -= len(e.frames[0].data)
		e.frames = e.frames[1:]
	}
}

// take returns what a device has lost that was found to be gone at a time, and forgets
// the rest.
func (e *earlyLosses) take(found time.Duration) []sample {
	var recent []sample
	for _, s := range e.frames {
		if found-s.lost() <= earlyAge {
			recent = append(recent, s)
		}
	}
	e.frames, e.bytes = nil, 0
	return recent
}
