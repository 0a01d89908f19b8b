// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package harvest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/pin"
)

// WithPins keeps the programs loaded, and attached between Arm and Disarm, when
// this process dies: they are pinned in dir, which must be on a bpf file system. The
// next New with the same dir takes them over. Until then nobody reads the frames that
// they see, but they are counted.
func WithPins(dir string) Option { return func(h *Harvester) { h.pins = dir } }

// Names of the pins. Links are numbered from 0 on.
const (
	pinConsumed = "consumed"
	pinDropped  = "dropped"
	pinSamples  = "samples"
	pinAims     = "aims"
	pinSeen     = "seen"
	pinLink     = "link-"
)

// inherit takes over what a predecessor has pinned, if it is complete.
func (h *Harvester) inherit() bool {
	if h.pins == "" {
		return false
	}
	o, err := h.pinned()
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err != nil {
		h.log.Warn("harvest: programs of a predecessor not taken over", "err", err)
		return false
	}
	h.kernel = o
	h.links = h.pinnedLinks()
	return true
}

func (h *Harvester) pinned() (objects, error) {
	var errs []error
	prog := func(name string) *ebpf.Program {
		p, err := ebpf.LoadPinnedProgram(filepath.Join(h.pins, name), nil)
		errs = append(errs, err)
		return p
	}
	array := func(name string) *ebpf.Map {
		m, err := ebpf.LoadPinnedMap(filepath.Join(h.pins, name), nil)
		errs = append(errs, err)
		return m
	}
	o := objects{
		Consumed: prog(pinConsumed), Dropped: prog(pinDropped),
		Samples: array(pinSamples), Aims: array(pinAims), Seen: array(pinSeen),
	}
	return o, errors.Join(errs...)
}

// pinnedLinks returns the links that a predecessor has left: all, or none. One that
// was killed between the two pins has attached both programs and left one.
func (h *Harvester) pinnedLinks() (links []link.Link) {
	for i := range programs {
		l, err := link.LoadPinnedLink(h.pinOf(i), nil)
		if err == nil {
			links = append(links, l)
		} else if !errors.Is(err, fs.ErrNotExist) {
			h.log.Warn("harvest: programs of a predecessor not taken over", "err", err)
		}
	}
	if len(links) == programs {
		return links
	}
	for _, l := range links {
		if err := errors.Join(l.Unpin(), l.Close()); err != nil {
			h.log.Warn("harvest: programs of a predecessor not detached", "err", err)
		}
	}
	return nil
}

// programs is how many programs are attached.
const programs = 2

func (h *Harvester) pinOf(i int) string { return filepath.Join(h.pins, fmt.Sprint(pinLink, i)) }

// leave pins what is loaded, in place of what a predecessor left incomplete.
// Without pins a harvest works all the same.
func (h *Harvester) leave() {
	if h.pins == "" {
		return
	}
	err := errors.Join(os.RemoveAll(h.pins), os.MkdirAll(h.pins, 0o700))
	for name, p := range map[string]pin.Pinner{
		pinConsumed: h.kernel.Consumed, pinDropped: h.kernel.Dropped,
		pinSamples: h.kernel.Samples, pinAims: h.kernel.Aims, pinSeen: h.kernel.Seen,
	} {
		if err == nil {
			err = p.Pin(filepath.Join(h.pins, name))
		}
	}
	if err != nil {
		h.log.Warn("harvest: a successor of this process will load its own programs", "err", err)
	}
}

// pinLinks pins what is attached.
func (h *Harvester) pinLinks() {
	if h.pins == "" {
		return
	}
	for i, l := range h.links {
		if err := l.Pin(h.pinOf(i)); err != nil {
			h.log.Warn("harvest: frames that are freed after the death of this process will not be counted", "err", err)
			return
		}
	}
}
