// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package harvest

import (
	"errors"
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

// Names of the pins.
const (
	pinConsumed = "consumed"
	pinDropped  = "dropped"
	pinSamples  = "samples"
	pinAims     = "aims"
	pinSeen     = "seen"
	pinWatched  = "watched"
	pinListen   = "listening"

	pinConsumedLink = "consumed-link"
	pinDroppedLink  = "dropped-link"
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
	h.consumed, h.dropped = h.pinnedLinks()
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
		Samples: array(pinSamples), Aims: array(pinAims), Seen: array(pinSeen), Watched: array(pinWatched), Listening: array(pinListen),
	}
	return o, errors.Join(errs...)
}

// pinnedLinks returns the links that a predecessor has left: both, or none. One that
// was killed between the two pins has attached both programs and left one.
func (h *Harvester) pinnedLinks() (consumed, dropped link.Link) {
	for name, l := range map[string]*link.Link{pinConsumedLink: &consumed, pinDroppedLink: &dropped} {
		pinned, err := link.LoadPinnedLink(filepath.Join(h.pins, name), nil)
		if err == nil {
			*l = pinned
		} else if !errors.Is(err, fs.ErrNotExist) {
			h.log.Warn("harvest: programs of a predecessor not taken over", "err", err)
		}
	}
	if consumed != nil && dropped != nil {
		return consumed, dropped
	}
	if err := errors.Join(toggle(&consumed, nil, false), toggle(&dropped, nil, false)); err != nil {
		h.log.Warn("harvest: programs of a predecessor not detached", "err", err)
	}
	return nil, nil
}

// leave pins what is loaded, in place of what a predecessor left incomplete.
// Without pins a harvest works all the same.
func (h *Harvester) leave() {
	if h.pins == "" {
		return
	}
	err := errors.Join(os.RemoveAll(h.pins), os.MkdirAll(h.pins, 0o700))
	for name, p := range map[string]pin.Pinner{
		pinConsumed: h.kernel.Consumed, pinDropped: h.kernel.Dropped,
		pinSamples: h.kernel.Samples, pinAims: h.kernel.Aims, pinSeen: h.kernel.Seen, pinWatched: h.kernel.Watched, pinListen: h.kernel.Listening,
	} {
		if err == nil {
			err = p.Pin(filepath.Join(h.pins, name))
		}
	}
	if err != nil {
		h.log.Warn("harvest: a successor of this process will load its own programs", "err", err)
	}
}

// pinLinks has what is attached outlive this process, or not.
func (h *Harvester) pinLinks(on bool) error {
	if h.pins == "" {
		return nil
	}
	for name, l := range map[string]link.Link{pinConsumedLink: h.consumed, pinDroppedLink: h.dropped} {
		switch path := filepath.Join(h.pins, name); {
		case l == nil:
		case !on:
			if err := l.Unpin(); err != nil {
				return err
			}
		default: // once more is no error
			if err := l.Pin(path); err != nil {
				h.log.Warn("harvest: frames that are freed after the death of this process will not be counted", "err", err)
				return nil
			}
		}
	}
	return nil
}
