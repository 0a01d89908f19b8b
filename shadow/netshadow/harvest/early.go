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
	// earlyAge is how long a frame is kept: what has waited longer has not been
	// lost to a device that was found to be gone now.
	earlyAge   = 5 * time.Second
	earlyBytes = 8 << 20
)

// earlyObjects are the programs that are attached all the time, to functions of the
// kernel that run when an interface has lost its carrier and else never.
type earlyObjects struct {
	Refused *ebpf.Program `ebpf:"refused"`
	Purged  *ebpf.Program `ebpf:"purged"`
	Reset   *ebpf.Program `ebpf:"reset"`
	Watched *ebpf.Map     `ebpf:"watched"`

	links []link.Link
}

// attach loads and attaches the programs. They write to the buffer of the others.
func (o *earlyObjects) attach(samples *ebpf.Map) error {
	spec, err := loadPrograms()
	if err != nil {
		return err
	}
	opts := &ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{"samples": samples}}
	if err := spec.LoadAndAssign(o, opts); err != nil {
		*o = earlyObjects{}
		return unsupported(err)
	}
	for _, p := range []*ebpf.Program{o.Refused, o.Purged, o.Reset} {
		l, err := link.AttachTracing(link.TracingOptions{Program: p})
		if err != nil {
			err = fmt.Errorf("attach %v: %w", p, unsupported(err))
			return errors.Join(err, o.close())
		}
		o.links = append(o.links, l)
	}
	return nil
}

func (o *earlyObjects) close() error {
	if o.Watched == nil {
		return nil
	}
	var errs []error
	for _, l := range o.links {
		errs = append(errs, l.Close())
	}
	errs = append(errs, o.Refused.Close(), o.Purged.Close(), o.Reset.Close(), o.Watched.Close())
	*o = earlyObjects{}
	return errors.Join(errs...)
}

// watch is struct watch in bpf/harvest.c.
type watch struct {
	Since, Number uint64
	Taken         uint32
	Role          uint8
	_             [3]uint8
}

// Watch has the frames kept for a while that the kernel frees because the interface
// has no carrier, from now on until the field is armed. A driver that watches its link
// may take hardware that is gone for a pulled cable before anybody has noticed that it
// is gone: the kernel then empties the interface's queue, and refuses what comes. The
// next Take after Arm returns those of the last seconds. If it was a cable they are
// forgotten. 0 watches nothing. While the field is armed, or on a kernel without the
// functions that are traced, Watch does nothing.
func (f *Field) Watch(ifindex int) error {
	f.h.arming.Lock()
	defer f.h.arming.Unlock()
	if f.h.closed || f.h.early.Watched == nil || len(f.aims) > 0 || f.watched == ifindex {
		return nil
	}
	err := f.unwatch()
	if ifindex != 0 && err == nil {
		err = f.h.early.Watched.Put(uint32(ifindex), watch{Role: f.role})
		f.watched = ifindex
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
	err := f.h.early.Watched.Delete(uint32(f.watched))
	f.watched = 0
	return err
}

// adopt makes what was lost of late part of the harvest, and what is on its way from
// the programs.
func (f *Field) adopt() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.early.take(time.Now()) {
		f.samples = append(f.samples, s)
		f.kept += len(s.data)
	}
	f.early.adopted = true
}

// earlyLosses are the last frames that a watched interface has lost, oldest first.
type earlyLosses struct {
	frames  []earlyLoss
	bytes   int
	adopted bool // the field is armed: frames go to its samples
}

type earlyLoss struct {
	sample
	at time.Time
}

// add keeps s, and lets go of what is too old, or too much.
func (e *earlyLosses) add(s sample, now time.Time) {
	e.frames = append(e.frames, earlyLoss{s, now})
	e.bytes += len(s.data)
	first := slices.IndexFunc(e.frames, func(l earlyLoss) bool { return now.Sub(l.at) <= earlyAge })
	for ; e.bytes > earlyBytes || first > 0; first-- {
		e.bytes -= len(e.frames[0].data)
		e.frames = e.frames[1:]
	}
}

// take returns what is not too old, and forgets all.
func (e *earlyLosses) take(now time.Time) []sample {
	var recent []sample
	for _, l := range e.frames {
		if now.Sub(l.at) <= earlyAge {
			recent = append(recent, l.sample)
		}
	}
	e.frames, e.bytes = nil, 0
	return recent
}
