// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package stream

import (
	"encoding/binary"
	"slices"
)

// ramBlock is one block of guest memory as announced in the first RAM section.
type ramBlock struct {
	name string
	size uint64
	drop bool
}

// ram is the state of the iterative section "ram" over all its parts.
type ram struct {
	id      uint32
	started bool
	ended   bool
	blocks  map[string]*ramBlock

	// current is the block that a header with the continue flag refers to;
	// it stays from one part to the next.
	current *ramBlock
}

// section passes the data of one part, up to and with its end-of-section
// header. A sequence of
//
//	u64 address|flags [name] payload
//
// where the name is absent with ramFlagContinue, and the payload is one byte for
// a zero page, 4096 for any other. Pages of dropped blocks are left out; the
// continue flag needs no mending because QEMU sets it only on a page that
// follows one of the same block.
func (r *ram) section(p *pipe, drop []Path, stats *Stats) error {
	for {
		header, err := p.u64()
		if err != nil {
			return err
		}
		addr, flags := header&^ramFlags, header&ramFlags
		for _, f := range ramFlagNames {
			if flags&f.flag != 0 {
				return p.fail(unsupported("%s", f.name))
			}
		}
		switch flags &^ ramFlagContinue {
		case ramFlagEOS:
			return p.put64(header)
		case ramFlagMemSize:
			if err := r.announce(p, drop, addr); err != nil {
				return err
			}
		case ramFlagZero:
			if err := r.page(p, header, 1, &stats.ZeroPages); err != nil {
				return err
			}
		case ramFlagPage:
			if err := r.page(p, header, pageSize, &stats.Pages); err != nil {
				return err
			}
		default:
			return p.fail(malformed("RAM flags %#x", flags))
		}
	}
}

// announce passes the list of blocks: name and u64 size, until their sum is
// total.
func (r *ram) announce(p *pipe, drop []Path, total uint64) error {
	if r.blocks != nil {
		return p.fail(malformed("RAM blocks announced twice"))
	}
	r.blocks = make(map[string]*ramBlock)
	var list []byte
	var kept uint64
	for left := total; left > 0; {
		if len(r.blocks) == maxRAMBlocks {
			return p.fail(malformed("more than %d RAM blocks", maxRAMBlocks))
		}
		name, err := p.name()
		if err != nil {
			return err
		}
		size, err := p.u64()
		if err != nil {
			return err
		}
		if size == 0 || size > left || size%pageSize != 0 {
			return p.fail(malformed("RAM block %q of %d bytes where %d are left", name, size, left))
		}
		if r.blocks[name] != nil {
			return p.fail(malformed("RAM block %q announced twice", name))
		}
		left -= size
		block := &ramBlock{name: name, size: size, drop: owned(drop, name)}
		r.blocks[name] = block
		if !block.drop {
			kept += size
			list = append(list, byte(len(name)))
			list = append(list, name...)
			list = binary.BigEndian.AppendUint64(list, size)
		}
	}
	if err := p.put64(kept | ramFlagMemSize); err != nil {
		return err
	}
	return p.put(list)
}

// page passes one page with a payload of n bytes.
func (r *ram) page(p *pipe, header uint64, n int, count *int64) error {
	addr := header &^ ramFlags
	named := header&ramFlagContinue == 0
	if named {
		name, err := p.name()
		if err != nil {
			return err
		}
		if r.current = r.blocks[name]; r.current == nil {
			return p.fail(malformed("page of RAM block %q, which was not announced", name))
		}
	}
	switch {
	case r.current == nil:
		return p.fail(malformed("page continues a RAM block, but none was named"))
	case addr >= r.current.size:
		return p.fail(malformed("page %#x beyond RAM block %q of %#x bytes", addr, r.current.name, r.current.size))
	}
	payload, err := p.take(n)
	if err != nil || r.current.drop {
		return err
	}
	*count++
	if err := p.put64(header); err != nil {
		return err
	}
	if named {
		if err := p.putName(r.current.name); err != nil {
			return err
		}
	}
	return p.put(payload)
}

// check refuses a part that does not fit what came before it.
func (r *ram) check(kind byte, id uint32) error {
	switch {
	case r.ended:
		return malformed("RAM goes on after its end")
	case kind == typeSectionStart && r.started:
		return malformed("RAM starts twice")
	case kind != typeSectionStart && !r.started:
		return malformed("section %d was not started", id)
	case kind != typeSectionStart && id != r.id:
		return malformed("part of section %d, expected %d", id, r.id)
	}
	return nil
}

func owned(drop []Path, name string) bool {
	for _, p := range drop {
		if p.owns(name) {
			return true
		}
	}
	return false
}

// dropped returns the names of the blocks left out, sorted.
func (r *ram) dropped() []string {
	var names []string
	for name, b := range r.blocks {
		if b.drop {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
