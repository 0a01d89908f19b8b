// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package pcifront

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/drivers/xenstore"
	"github.com/umbra-vm/umbra/migrate/xen/privcmd"
)

const (
	domain = 7
	name   = "guest0"
	asked  = 9     // the grant of the front end's page
	pfn    = 29144 // that page's number in the domain

	// Frames of the machine: the domain's page, and its grant table.
	pageFrame, tableFrame = 3, 1
)

// played is a machine of a few frames with one domain, and its xenstore.
type played struct {
	memory *os.File

	mu      sync.Mutex
	nodes   map[string]string
	did     []string
	missing bool // the domain's page is not there yet
	granted int  // times that dom0 has mapped the page
}

func machine(t testing.TB) (*played, Dom0) {
	t.Helper()
	fd, err := unix.MemfdCreate("frames", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	p := &played{memory: os.NewFile(uintptr(fd), "frames"), nodes: map[string]string{
		"/local/domain/0/name": "Domain-0", "/local/domain/7/name": name,
		"/local/domain/7/device/pci/0/pci-op-ref": fmt.Sprint(asked),
	}}
	t.Cleanup(func() { p.memory.Close() })
	if err := p.memory.Truncate(8 * privcmd.PageSize); err != nil {
		t.Fatal(err)
	}
	return p, Dom0{p, p}
}

func (p *played) frame(frame int64) (privcmd.Pages, error) {
	return unix.Mmap(int(p.memory.Fd()), frame*privcmd.PageSize, privcmd.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

func (p *played) GrantTable(d uint16, page uint32) (privcmd.Pages, error) {
	if d != domain || page != 0 {
		return nil, fmt.Errorf("page %d of domain %d", page, d)
	}
	return p.frame(tableFrame)
}

func (p *played) Granted(d uint16, ref uint32) (privcmd.Pages, error) {
	table, err := p.GrantTable(d, ref/entriesOfPage)
	if err != nil {
		return nil, err
	}
	defer table.Close()
	g := grant(atomic.LoadUint64(entry(table, ref)))
	if !g.forDom0() {
		return nil, fmt.Errorf("grant %#x", uint64(g))
	}
	p.mu.Lock()
	p.granted++
	p.mu.Unlock()
	return p.frame(int64(g.frame()))
}

// unmapped says whether dom0 has the page not mapped: the guest alone has.
func (p *played) unmapped() bool {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		panic(err)
	}
	mapped := 0
	for line := range strings.Lines(string(maps)) {
		if strings.Contains(line, fmt.Sprintf(" %08x ", pageFrame*privcmd.PageSize)) && strings.Contains(line, "memfd:frames") {
			mapped++
		}
	}
	return mapped == 1
}

func (p *played) Pseudophysical(frame uint64) (uint64, error) {
	if frame != pageFrame {
		return 0, privcmd.ErrNoFrame
	}
	return pfn, nil
}

func (p *played) Machine(d uint16, of uint64) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d != domain || of != pfn || p.missing {
		return 0, privcmd.ErrNoFrame
	}
	return pageFrame, nil
}

func (p *played) Read(path string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if v, ok := p.nodes[path]; ok {
		return v, nil
	}
	return "", xenstore.ErrNoEntry
}

func (p *played) List(string) ([]string, error) { return []string{"0", "7"}, nil }

func (p *played) Write(path, value string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.did = append(p.did, "write "+path)
	return nil
}

func (p *played) Remove(path string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.did = append(p.did, "remove "+path)
	return nil
}

// grants sets an entry of the domain's table.
func (p *played) grants(t testing.TB, ref uint32, g uint64) {
	t.Helper()
	table, err := p.frame(tableFrame)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	atomic.StoreUint64(entry(table, ref), g)
}

func TestFind(t *testing.T) {
	const forDom0 = permitAccess | pageFrame<<32
	for _, tt := range []struct {
		rule   string
		domain string
		change func(p *played)
		grant  uint64
		want   error
		says   string
	}{
		{"the page is that of the grant", name, func(*played) {}, forDom0, nil, ""},
		{"a domain that is not there", "guest1", func(*played) {}, forDom0, ErrNoDomain, ""},
		{"a domain without a device", name, func(p *played) { clear(p.nodes); p.nodes["/local/domain/7/name"] = name }, forDom0, ErrNoFrontEnd, ""},
		{"a number that is none", name, func(p *played) { p.nodes["/local/domain/7/device/pci/0/pci-op-ref"] = "-1" }, forDom0, nil, "pci-op-ref"},
		{"a grant for another domain", name, func(*played) {}, forDom0 | 5<<16, nil, "is none for dom0"},
		{"a grant to read only", name, func(*played) {}, forDom0 | readonly, nil, "is none for dom0"},
		{"no grant", name, func(*played) {}, pageFrame << 32, nil, "is none for dom0"},
		{"a grant of no frame", name, func(*played) {}, permitAccess | 5<<32, privcmd.ErrNoFrame, ""},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			p, d := machine(t)
			tt.change(p)
			p.grants(t, asked, tt.grant)
			got, err := d.Find(tt.domain)
			if tt.want == nil && tt.says == "" {
				if want := (Page{asked, pfn}); err != nil || got != want {
					t.Errorf("%v, %v; want %v", got, err, want)
				}
				return
			}
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want %v with %q", err, tt.want, tt.says)
			}
		})
	}
}

// A guest is what the domain's kernel does with its page.
type guest struct {
	t    testing.TB
	p    *played
	page privcmd.Pages
}

func (p *played) guest(t testing.TB) guest {
	t.Helper()
	page, err := p.frame(pageFrame)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { page.Close() })
	return guest{t, p, page}
}

func (g guest) flags() *uint32 { return (*uint32)(unsafe.Pointer(&g.page[atFlags])) }

// ask asks for an access of some bytes, as do_pci_op in drivers/pci/xen-pcifront.c does, and
// returns the answer.
func (g guest) ask(cmd, size uint32) (status int32, value uint32) {
	return g.askFor(cmd, size, func() { time.Sleep(time.Millisecond) })
}

// askFor is ask with what is done while there is no answer.
func (g guest) askFor(cmd, size uint32, wait func()) (status int32, value uint32) {
	binary.NativeEndian.PutUint32(g.page[atCmd:], cmd)
	binary.NativeEndian.PutUint32(g.page[atSize:], size)
	atomic.OrUint32(g.flags(), activeOp)
	for atomic.LoadUint32(g.flags())&activeOp != 0 {
		wait()
	}
	return int32(binary.NativeEndian.Uint32(g.page[atErr:])), binary.NativeEndian.Uint32(g.page[atValue:])
}

// giveUp takes the page back once nobody has it, as gnttab_handle_deferred does.
func (g guest) giveUp() {
	for !g.p.unmapped() {
		time.Sleep(time.Millisecond)
	}
	g.p.grants(g.t, asked, pageFrame<<32) // which clears the flags, and no more
}

func TestAnswer(t *testing.T) {
	const enableMSI, unknown = 2, 77
	for _, tt := range []struct {
		rule      string
		cmd, size uint32
		status    int32
		value     uint32
	}{
		{"a byte reads as ones", confRead, 1, 0, 0xff},
		{"two bytes read as ones", confRead, 2, 0, 0xffff},
		{"four bytes read as ones", confRead, 4, 0, 0xffff_ffff},
		{"a size that no access has reads as ones", confRead, 1 << 31, 0, 0xffff_ffff},
		{"a write is lost", confWrite, 4, 0, 0},
		{"messages cannot be switched on", enableMSI, 0, noDevice, 0},
		{"messages are off", disableMSI, 0, 0, 0},
		{"all of them are", disableMSIX, 0, 0, 0},
		{"a command that nobody knows", unknown, 0, noDevice, 0},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			p, _ := machine(t)
			g := p.guest(t)
			atomic.StoreUint32(g.flags(), 4) // somebody else's bit
			if answer(g.page) {
				t.Error("it has answered what was not asked")
			}
			done := make(chan bool)
			go func() {
				for !answer(g.page) {
					time.Sleep(time.Millisecond)
				}
				close(done)
			}()
			status, value := g.ask(tt.cmd, tt.size)
			<-done
			if status != tt.status || value != tt.value {
				t.Errorf("status %d, value %#x; want %d, %#x", status, value, tt.status, tt.value)
			}
			if got := atomic.LoadUint32(g.flags()); got != 4 {
				t.Errorf("flags %#x, want 4", got)
			}
		})
	}
}

func TestAnswerUntilTheGuestHasGivenUp(t *testing.T) {
	t.Parallel()
	p, d := machine(t)
	p.missing = true // it is on its way
	g := p.guest(t)
	ready := make(chan struct{})
	go func() {
		time.Sleep(2 * arrivalPoll)
		p.mu.Lock()
		p.missing = false
		p.mu.Unlock()
		<-ready
		for range 3 {
			g.ask(confRead, 4)
		}
		for !p.unmapped() { // to look whether it was given up
			time.Sleep(time.Millisecond)
		}
		g.ask(confWrite, 4) // but it is needed
		g.giveUp()
	}()
	answered, err := d.Answer(t.Context(), name, Page{asked, pfn}, func() { close(ready) })
	if err != nil || answered != 4 {
		t.Errorf("answered %d times, %v; want 4", answered, err)
	}
	const node = "/local/domain/7/device/pci/0"
	if want := []string{"write " + node, "remove " + node}; !slices.Equal(p.did, append(want, want...)) {
		t.Errorf("in xenstore it did %q, want %q twice", p.did, want)
	}
	if p.granted < 2 {
		t.Errorf("the page was mapped %d times, and not again after a look", p.granted)
	}
}

func TestAnswerEnds(t *testing.T) {
	cause := errors.New("enough")
	for _, tt := range []struct {
		rule   string
		change func(t *testing.T, p *played)
		want   error
	}{
		{"by its context", func(*testing.T, *played) {}, cause},
		{"by its context, before the domain is there", func(_ *testing.T, p *played) { clear(p.nodes) }, ErrNoDomain},
		{"with a grant that the guest has made since", func(t *testing.T, p *played) {
			p.grants(t, asked, permitAccess)
		}, ErrTaken},
		{"with a domain that has devices", func(_ *testing.T, p *played) {
			p.nodes["/local/domain/7/device/pci/0/backend"] = "x"
		}, ErrTooEarly},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			p, d := machine(t)
			tt.change(t, p)
			ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, cause)
			defer cancel()
			if _, err := d.Answer(ctx, name, Page{asked, pfn}, func() {}); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

func TestAnswerLeavesNothingOfADomainThatHasGone(t *testing.T) {
	p, d := machine(t)
	_, err := d.Answer(t.Context(), name, Page{asked, pfn}, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		clear(p.nodes)
	})
	if !errors.Is(err, xenstore.ErrNoEntry) || len(p.did) > 0 {
		t.Errorf("error %v, and it did %q", err, p.did)
	}
}

// BenchmarkAccess is what a front end waits for an access, one of many, on a processor of its
// own, and without what Xen needs to tell dom0 of it.
func BenchmarkAccess(b *testing.B) {
	p, d := machine(b)
	g := p.guest(b)
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = d.serve(ctx, domain, g.page, true) // it ends with ctx
	}()
	for b.Loop() {
		g.askFor(confRead, 4, func() {})
	}
	cancel()
	<-ended
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"9:29144", "9:", ":1", "4294967296:1", "9:29144:1", "-1:-1", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := Parse(s)
		if err != nil {
			if !errors.Is(err, ErrPage) {
				t.Errorf("%q: error %v", s, err)
			}
			return
		}
		if again, err := Parse(p.String()); err != nil || again != p {
			t.Errorf("%q: %v, and again %v, %v", s, p, again, err)
		}
	})
}
