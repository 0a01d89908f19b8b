// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package privcmd is a small client of the files by which a program of dom0 reaches the
// memory of other domains: /dev/xen/privcmd, /dev/xen/hypercall and /dev/xen/gntdev
// (Linux, include/uapi/xen).
//
// It maps pages, and knows paravirtual domains on x86-64 only, whose frames are the
// machine's. It must never know what is in a page.
package privcmd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// PageSize is the size of a frame in bytes.
const PageSize = 4096

var (
	// ErrNoDom0 says that this is no dom0, or that the caller may not do what it can.
	ErrNoDom0 = errors.New("not in the dom0 of a Xen host")
	// ErrNoFrame says that a domain has no such frame.
	ErrNoFrame = errors.New("no such frame")
)

// The requests (include/uapi/xen/privcmd.h, include/uapi/xen/gntdev.h), which have no
// direction and the size of what they take.
const (
	reqHypercall   = 48<<16 | 'P'<<8     // number 0
	reqMapBatch    = 32<<16 | 'P'<<8 | 4 // IOCTL_PRIVCMD_MMAPBATCH_V2
	reqMapResource = 32<<16 | 'P'<<8 | 7
	reqMapGrant    = 24<<16 | 'G'<<8 // number 0
)

type mapBatch struct {
	num    uint32
	domain uint16
	_      uint16
	addr   unsafe.Pointer
	frames *uint64
	errs   *int32
}

type mapResource struct {
	domain  uint16
	_       uint16
	kind    uint32
	id, idx uint32
	num     uint64
	addr    unsafe.Pointer
}

type mapGrant struct {
	count  uint32
	_      uint32
	index  uint64 // of the mapping in the file, an answer
	domain uint32
	ref    uint32
}

type hypercall struct {
	op   uint64
	args [5]uint64
}

// What is called and asked for (xen/include/public).
const (
	opMemory           = 12 // __HYPERVISOR_memory_op
	memMachinePhysList = 5  // XENMEM_machphys_mfn_list
	resourceGrantTable = 1  // XENMEM_resource_grant_table
	domainXen          = 0x7ff2
)

// A Conn is an open way into other domains. It is for one goroutine.
type Conn struct {
	cmd, call, grants *os.File

	// extents are the frames of the table of all frames (M2P), each the first of 2 MiB.
	extents []uint64
}

// Open opens the way. Its error matches [ErrNoDom0].
func Open() (*Conn, error) {
	c := new(Conn)
	for _, f := range []struct {
		name string
		to   **os.File
	}{{"/dev/xen/privcmd", &c.cmd}, {"/dev/xen/hypercall", &c.call}, {"/dev/xen/gntdev", &c.grants}} {
		var err error
		if *f.to, err = os.OpenFile(f.name, os.O_RDWR, 0); err != nil {
			c.Close()
			return nil, fmt.Errorf("%w: %w", ErrNoDom0, err)
		}
	}
	if err := c.listExtents(); err != nil {
		c.Close()
		return nil, fmt.Errorf("%w: table of all frames: %w", ErrNoDom0, err)
	}
	return c, nil
}

// Close closes the way. What was mapped stays so until it is closed itself.
func (c *Conn) Close() error {
	var errs []error
	for _, f := range []*os.File{c.cmd, c.call, c.grants} {
		if f != nil { // which Open did not get to
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Pages are pages that are mapped, in one piece.
type Pages []byte

// Close ends the mapping. Nobody may look at the pages any more.
func (p Pages) Close() error { return unix.Munmap(p) }

func control(f *os.File, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

// Frame maps a frame of a domain. The error matches [ErrNoFrame] if it is not the
// domain's, or nobody may write it.
func (c *Conn) Frame(domain uint16, frame uint64) (Pages, error) {
	return c.frames(domain, unix.PROT_READ|unix.PROT_WRITE, frame)
}

func (c *Conn) frames(domain uint16, prot int, frames ...uint64) (Pages, error) {
	p, err := unix.Mmap(int(c.cmd.Fd()), 0, len(frames)*PageSize, prot, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %d frames of domain %d: %w", len(frames), domain, err)
	}
	errs := make([]int32, len(frames))
	arg := mapBatch{num: uint32(len(frames)), domain: domain, addr: unsafe.Pointer(&p[0]), frames: &frames[0], errs: &errs[0]}
	err = control(c.cmd, reqMapBatch, unsafe.Pointer(&arg))
	for i, e := range errs {
		if e != 0 && err == nil {
			err = fmt.Errorf("%w: %#x: %w", ErrNoFrame, frames[i], unix.Errno(-e))
		}
	}
	if err != nil {
		Pages(p).Close()
		return nil, fmt.Errorf("map frames of domain %d: %w", domain, err)
	}
	return p, nil
}

// GrantTable maps a page of a domain's grant table, which Xen makes longer if need be.
func (c *Conn) GrantTable(domain uint16, page uint32) (Pages, error) {
	p, err := unix.Mmap(int(c.cmd.Fd()), 0, PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map grant table of domain %d: %w", domain, err)
	}
	arg := mapResource{domain: domain, kind: resourceGrantTable, idx: page, num: 1, addr: unsafe.Pointer(&p[0])}
	if err := control(c.cmd, reqMapResource, unsafe.Pointer(&arg)); err != nil {
		Pages(p).Close()
		return nil, fmt.Errorf("map page %d of the grant table of domain %d: %w", page, domain, err)
	}
	return p, nil
}

// Granted maps the page that a domain has granted to dom0, as a back end does: the domain
// sees that it is in use.
func (c *Conn) Granted(domain uint16, ref uint32) (Pages, error) {
	arg := mapGrant{count: 1, domain: uint32(domain), ref: ref}
	if err := control(c.grants, reqMapGrant, unsafe.Pointer(&arg)); err != nil {
		return nil, fmt.Errorf("grant %d of domain %d: %w", ref, domain, err)
	}
	p, err := unix.Mmap(int(c.grants.Fd()), int64(arg.index), PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map grant %d of domain %d: %w", ref, domain, err)
	}
	return p, nil
}

const (
	entryBytes     = 8
	pagesPerExtent = 2 << 20 / PageSize
	framesPerPage  = PageSize / entryBytes
	maxExtents     = 4096 // a table for 4 TiB of memory

	extentsAt = 64 // after the arguments
	listBytes = extentsAt + maxExtents*8
)

// listExtents asks where the table of all frames is: for each of the machine's frames, which
// of its domain's it is (xen/include/public/memory.h, struct xen_machphys_mfn_list).
func (c *Conn) listExtents() error {
	size := (listBytes + PageSize - 1) / PageSize * PageSize
	buf, err := unix.Mmap(int(c.call.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(buf)
	at := uint64(uintptr(unsafe.Pointer(&buf[0])))
	binary.LittleEndian.PutUint32(buf[0:], maxExtents)
	binary.LittleEndian.PutUint64(buf[8:], at+extentsAt)
	call := hypercall{op: opMemory, args: [5]uint64{memMachinePhysList, at}}
	err = control(c.cmd, reqHypercall, unsafe.Pointer(&call))
	runtime.KeepAlive(buf)
	if err != nil {
		return err
	}
	for i := range min(binary.LittleEndian.Uint32(buf[16:]), maxExtents) {
		c.extents = append(c.extents, binary.LittleEndian.Uint64(buf[extentsAt+8*i:]))
	}
	return nil
}

// table maps the pages of the table of all frames from one on, at most to the end of its
// extent. No pages are no error, but the end of the table.
func (c *Conn) table(first uint64, n int) (Pages, error) {
	extent, page := first/pagesPerExtent, first%pagesPerExtent
	if extent >= uint64(len(c.extents)) {
		return nil, nil
	}
	frames := make([]uint64, min(n, pagesPerExtent-int(page)))
	for i := range frames {
		frames[i] = c.extents[extent] + page + uint64(i)
	}
	return c.frames(domainXen, unix.PROT_READ, frames...)
}

// Pseudophysical is what a frame of the machine is called by its domain: its PFN.
func (c *Conn) Pseudophysical(frame uint64) (uint64, error) {
	p, err := c.table(frame/framesPerPage, 1)
	if err != nil {
		return 0, err
	}
	if p == nil {
		return 0, fmt.Errorf("%w: %#x of the machine", ErrNoFrame, frame)
	}
	defer p.Close()
	return binary.LittleEndian.Uint64(p[frame%framesPerPage*entryBytes:]), nil
}

// Machine is the frame of the machine that a domain calls pfn. It looks through all frames
// of the machine, of which each MiB takes 2 KiB of the table.
func (c *Conn) Machine(domain uint16, pfn uint64) (uint64, error) {
	for page := uint64(0); ; page += pagesPerExtent {
		p, err := c.table(page, pagesPerExtent)
		if err != nil {
			return 0, err
		}
		if p == nil {
			return 0, fmt.Errorf("%w: %#x of domain %d", ErrNoFrame, pfn, domain)
		}
		var found []uint64
		for i := 0; i < len(p); i += entryBytes {
			if binary.LittleEndian.Uint64(p[i:]) == pfn {
				found = append(found, page*framesPerPage+uint64(i/entryBytes))
			}
		}
		p.Close()
		// Every domain has a frame of that number. Only its own can be mapped.
		for _, frame := range found {
			if p, err := c.Frame(domain, frame); err == nil {
				return frame, p.Close()
			}
		}
	}
}
