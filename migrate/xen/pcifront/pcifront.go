// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package pcifront stands in, on the host that a paravirtual domain has come to, for the PCI
// back end that the domain has left behind.
//
// The kernel of such a domain asks for each access to the configuration space of its devices
// by a page that it shares with dom0 (Linux, drivers/pci/xen-pcifront.c). After a move
// nobody answers there, and it waits for 2 s, with its interrupts off, for each of
// some 200 accesses, before any program of the domain runs again. Answer answers them,
// as slots in which nothing is plugged, and then has the kernel give the old devices up,
// after which the domain can be given others.
//
// A page that the kernel takes back is used for something else at once. So it is shared by
// the means of Xen: Answer puts the grant that was left behind into the domain's new table
// and maps it, and as long as it is mapped, the kernel keeps the page
// (gnttab_end_foreign_access in drivers/xen/grant-table.c).
//
// The package must never know what the devices are, nor what comes in their place.
package pcifront

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/umbra-vm/umbra/drivers/xenstore"
	"github.com/umbra-vm/umbra/migrate/xen/privcmd"
)

var (
	// ErrNoFrontEnd says that the domain has no PCI front end that is in use.
	ErrNoFrontEnd = errors.New("no PCI front end in use")
	// ErrPage says that something is not GRANT:PFN.
	ErrPage = errors.New("not the page of a front end")
	// ErrNoDomain says that there is no domain of that name.
	ErrNoDomain = errors.New("no such domain")
	// ErrTooEarly says that the domain was given devices while it had its old ones.
	ErrTooEarly = errors.New("the domain was given devices before it has given up those that it had")
	// ErrTaken says that the domain has another grant of that number: the page is not this
	// domain's.
	ErrTaken = errors.New("the grant is in use")
)

// Ready is what "umbra pcifront" prints when the domain may be started.
const Ready = "ready"

// A Page is the page by which a front end asks: the number of its grant, and the page's in
// the domain. Both stay what they are in a move.
type Page struct {
	Grant uint32
	PFN   uint64
}

func (p Page) String() string { return fmt.Sprintf("%d:%d", p.Grant, p.PFN) }

// Parse is the inverse of [Page.String]. Its error matches [ErrPage].
func Parse(s string) (Page, error) {
	ref, pfn, _ := strings.Cut(s, ":")
	grant, err := strconv.ParseUint(ref, 10, 32)
	if err != nil {
		return Page{}, fmt.Errorf("%w: %q: GRANT: %w", ErrPage, s, err)
	}
	p := Page{Grant: uint32(grant)}
	if p.PFN, err = strconv.ParseUint(pfn, 10, 64); err != nil {
		return Page{}, fmt.Errorf("%w: %q: PFN: %w", ErrPage, s, err)
	}
	return p, nil
}

// Memory is the memory of domains; *privcmd.Conn has it.
type Memory interface {
	GrantTable(domain uint16, page uint32) (privcmd.Pages, error)
	Granted(domain uint16, ref uint32) (privcmd.Pages, error)
	Pseudophysical(frame uint64) (uint64, error)
	Machine(domain uint16, pfn uint64) (uint64, error)
}

// Store is xenstore; *xenstore.Conn has it.
type Store interface {
	Read(path string) (string, error)
	Write(path, value string) error
	Remove(path string) error
	List(path string) ([]string, error)
}

// Dom0 is what dom0 has of the other domains.
type Dom0 struct {
	Memory Memory
	Store  Store
}

// An entry of a grant table in its first version, which is what Linux has by default
// (xen/include/public/grant_table.h, struct grant_entry_v1).
const (
	entryBytes    = 8
	entriesOfPage = privcmd.PageSize / entryBytes

	flagsMask    = 0xffff
	permitAccess = 1 // GTF_permit_access
	kindMask     = 3 // GTF_type_mask
	readonly     = 4 // GTF_readonly
)

// grant is an entry of the table, as it is in memory: 16 bits of flags, 16 of the domain that
// may use it, 32 of the frame.
type grant uint64

func grantOf(frame uint64) grant { return permitAccess | grant(frame)<<32 }

func (g grant) frame() uint64 { return uint64(g) >> 32 }

// free says that nobody may use the page, whatever it was (gnttab_end_foreign_access_ref_v1
// in drivers/xen/grant-table.c).
func (g grant) free() bool { return g&flagsMask == 0 }

// forDom0 says whether dom0 may read and write the page.
func (g grant) forDom0() bool {
	return g&0xffff_0000 == 0 && g&kindMask == permitAccess && g&readonly == 0
}

// entry is the place of a grant in its page.
func entry(page privcmd.Pages, ref uint32) *uint64 {
	return (*uint64)(unsafe.Pointer(&page[ref%entriesOfPage*entryBytes]))
}

func frontEnd(domain uint16) string { return fmt.Sprintf("/local/domain/%d/device/pci/0", domain) }

// Find finds the page of a domain that runs with its devices, whose name is given. Its error
// matches [ErrNoDomain], or [ErrNoFrontEnd] if it has no device.
func (d Dom0) Find(name string) (Page, error) {
	domain, err := d.domain(name)
	if err != nil {
		return Page{}, err
	}
	p, err := d.find(domain)
	if err != nil {
		return Page{}, fmt.Errorf("domain %s: %w", name, err)
	}
	return p, nil
}

func (d Dom0) find(domain uint16) (p Page, err error) {
	text, err := d.Store.Read(frontEnd(domain) + "/pci-op-ref")
	if errors.Is(err, xenstore.ErrNoEntry) {
		return p, ErrNoFrontEnd
	}
	if err != nil {
		return p, err
	}
	ref, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return p, fmt.Errorf("pci-op-ref: %w", err)
	}
	p.Grant = uint32(ref)
	table, err := d.Memory.GrantTable(domain, p.Grant/entriesOfPage)
	if err != nil {
		return p, err
	}
	g := grant(atomic.LoadUint64(entry(table, p.Grant)))
	table.Close()
	if !g.forDom0() {
		return p, fmt.Errorf("grant %d is none for dom0: %#x", ref, uint64(g))
	}
	p.PFN, err = d.Memory.Pseudophysical(g.frame())
	return p, err
}

// domain is the number of the domain that has one of these names.
func (d Dom0) domain(names ...string) (uint16, error) {
	ids, err := d.Store.List("/local/domain")
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		n, err := strconv.ParseUint(id, 10, 16)
		if err != nil || n == 0 {
			continue
		}
		name, err := d.Store.Read("/local/domain/" + id + "/name")
		if err != nil && !errors.Is(err, xenstore.ErrNoEntry) {
			return 0, err
		}
		if slices.Contains(names, name) {
			return uint16(n), nil
		}
	}
	return 0, fmt.Errorf("%w: %s", ErrNoDomain, names[0])
}

const (
	// lookEvery is how often the page is looked at. The kernel waits in a loop, and drivers
	// ask for one register after the other: for as long as stare after an answer
	// the page is not taken the eyes off, not even for a pause, which costs as much as a
	// hundred accesses.
	lookEvery = 100 * time.Microsecond
	stare     = 200 * time.Microsecond

	// settled is for how long nothing was asked when the kernel is asked to give the devices up,
	// and askLimit after how long it is at the latest. An agent in the guest, which looks at
	// its devices each second until it knows that they have gone, saves what their drivers
	// have to send before that.
	settled  = 3 * time.Second
	askLimit = time.Minute

	// hereEvery is how often it is looked whether the domain is still there.
	hereEvery = time.Second

	// quiet is for how long nothing was asked when it is looked whether the kernel has given
	// the page up, and lookTime how long it is given for that, which it tries each second.
	quiet    = time.Second
	lookTime = 1500 * time.Millisecond
)

// Answer answers for the domain of this name, which has come here, or is to come: it waits for
// it. It calls ready when the domain may be started, and returns when the domain has given
// its old devices up, or with the end of ctx. The number is how often it has answered.
func (d Dom0) Answer(ctx context.Context, name string, p Page, ready func()) (answered int, err error) {
	for {
		// Until all of it has come, xl calls it so.
		domain, err := d.domain(name, name+"--incoming")
		if err == nil {
			answered, err = d.answer(ctx, domain, p, ready)
		}
		if err == nil {
			return answered, nil
		}
		if !errors.Is(err, ErrNoDomain) && !errors.Is(err, privcmd.ErrNoFrame) {
			return answered, fmt.Errorf("domain %s: answering for its PCI back end: %w", name, err)
		}
		if pause(ctx, arrivalPoll) != nil {
			return answered, err
		}
	}
}

// arrivalPoll is how often it is looked whether the domain, and its page, is there.
const arrivalPoll = 50 * time.Millisecond

func (d Dom0) answer(ctx context.Context, domain uint16, p Page, ready func()) (answered int, err error) {
	if err := d.here(domain); err != nil {
		return 0, err
	}
	frame, err := d.Memory.Machine(domain, p.PFN)
	if err != nil {
		return 0, err
	}
	if frame > math.MaxUint32 {
		return 0, fmt.Errorf("frame %#x is above the 16 TiB that a grant reaches", frame)
	}
	table, err := d.Memory.GrantTable(domain, p.Grant/entriesOfPage)
	if err != nil {
		return 0, err
	}
	defer table.Close()
	at := entry(table, p.Grant)
	if !grant(atomic.LoadUint64(at)).free() {
		return 0, fmt.Errorf("%w: %d", ErrTaken, p.Grant)
	}
	atomic.StoreUint64(at, uint64(grantOf(frame)))
	page, err := d.Memory.Granted(domain, p.Grant)
	if err != nil {
		atomic.StoreUint64(at, 0)
		return 0, err
	}
	ready()
	for {
		n, err := d.serve(ctx, domain, page, answered > 0)
		page.Close()
		answered += n
		if err != nil {
			return answered, err
		}
		// The kernel can take the page back only while nobody has it.
		for looked := time.Now(); time.Since(looked) < lookTime; {
			if grant(atomic.LoadUint64(at)).free() {
				return answered, nil
			}
			if err := pause(ctx, lookEvery); err != nil {
				return answered, err
			}
		}
		if page, err = d.Memory.Granted(domain, p.Grant); err != nil {
			return answered, err
		}
	}
}

// serve answers until the kernel was asked to give its devices up, and asks for nothing more.
// One that is not awake has asked for nothing yet.
func (d Dom0) serve(ctx context.Context, domain uint16, page privcmd.Pages, awake bool) (answered int, err error) {
	began := time.Now()
	last, looked, told := began, began, false
	for !told || time.Since(last) < quiet {
		if answer(page) {
			answered++
			last = time.Now()
			continue
		}
		if answered > 0 && time.Since(last) < stare {
			continue
		}
		if err := pause(ctx, lookEvery); err != nil {
			return answered, err
		}
		if time.Since(looked) > hereEvery {
			if err := d.here(domain); err != nil {
				return answered, err
			}
			looked = time.Now()
		}
		if told || time.Since(began) < askLimit && (answered == 0 && !awake || time.Since(last) < settled) {
			continue
		}
		if err := d.giveUp(domain); err != nil {
			return answered, err
		}
		last, told = time.Now(), true
	}
	return answered, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// giveUp has the domain's kernel look for its front end, which is not there
// (xenbus_dev_changed in drivers/xen/xenbus/xenbus_probe.c): what it has is removed.
func (d Dom0) giveUp(domain uint16) error {
	if err := d.here(domain); err != nil {
		return err
	}
	node := frontEnd(domain)
	if err := d.Store.Write(node, ""); err != nil {
		return err
	}
	return d.Store.Remove(node)
}

// here returns an error if the domain has gone, which is to leave no nodes, or was given
// devices.
func (d Dom0) here(domain uint16) error {
	if _, err := d.Store.Read(fmt.Sprintf("/local/domain/%d/name", domain)); err != nil {
		return fmt.Errorf("it has gone: %w", err)
	}
	if _, err := d.Store.Read(frontEnd(domain) + "/backend"); err == nil {
		return ErrTooEarly
	}
	return nil
}

// Where the page has what (xen/include/public/io/pciif.h, struct xen_pci_sharedinfo).
const (
	atFlags  = 0
	atCmd    = 4
	atErr    = 8
	atSize   = 28
	atValue  = 32
	activeOp = 1 // XEN_PCIF_active
)

// Commands and errors of pciif.h.
const (
	confRead    = 0
	confWrite   = 1
	disableMSI  = 3
	disableMSIX = 5

	noDevice = -1 // XEN_PCI_ERR_dev_not_found
)

// answer answers what is asked by a page, if something is, as a slot in which nothing is
// plugged: it reads as ones, and there is nothing that could interrupt.
func answer(page privcmd.Pages) bool {
	flags := (*uint32)(unsafe.Pointer(&page[atFlags]))
	if atomic.LoadUint32(flags)&activeOp == 0 {
		return false
	}
	status := int32(0)
	switch binary.NativeEndian.Uint32(page[atCmd:]) {
	case confRead:
		ones := uint32(1<<(8*min(uint64(binary.NativeEndian.Uint32(page[atSize:])), 4)) - 1)
		binary.NativeEndian.PutUint32(page[atValue:], ones)
	case confWrite, disableMSI, disableMSIX:
	default:
		status = noDevice
	}
	binary.NativeEndian.PutUint32(page[atErr:], uint32(status))
	atomic.AndUint32(flags, ^uint32(activeOp))
	return true
}
