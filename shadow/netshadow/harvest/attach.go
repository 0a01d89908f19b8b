// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package harvest

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// listen attaches those programs that see something, and detaches those that do not. Links
// that a successor may need are pinned.
func (h *Harvester) listen() error {
	armed := h.armed()
	var watched, distinct bool
	for i := range h.fields {
		if f := &h.fields[i]; f.watched != 0 {
			watched, distinct = true, distinct || !f.mixes
		}
	}
	trouble := watched && h.trouble != nil
	err := toggle(&h.consumed, h.kernel.Consumed, armed || trouble)
	// A frame that is freed in between is seen twice, not lost.
	if armed || trouble || distinct {
		err = errors.Join(err, toggle(&h.dropped, h.kernel.Dropped, true), h.kernel.Listening.Put(uint32(0), uint32(1)))
	} else {
		err = errors.Join(err, h.kernel.Listening.Put(uint32(0), uint32(0)), toggle(&h.dropped, nil, false))
	}
	if err != nil {
		return err
	}
	return h.pinLinks(armed)
}

// toggle attaches or detaches a program. l is nil while it is not attached.
func toggle(l *link.Link, p *ebpf.Program, on bool) (err error) {
	switch {
	case on && *l == nil:
		*l, err = attach(p)
	case !on && *l != nil:
		err = errors.Join((*l).Unpin(), (*l).Close())
		*l = nil
	}
	return err
}

func attach(p *ebpf.Program) (link.Link, error) {
	l, err := link.AttachTracing(link.TracingOptions{Program: p})
	if err != nil {
		return nil, fmt.Errorf("attach %v: %w", p, unsupported(err))
	}
	return l, nil
}

func (h *Harvester) detach() error {
	return errors.Join(toggle(&h.consumed, nil, false), toggle(&h.dropped, nil, false))
}

// unsupported marks the errors that mean "not on this kernel".
func unsupported(err error) error {
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, os.ErrNotExist) ||
		errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return err
}
