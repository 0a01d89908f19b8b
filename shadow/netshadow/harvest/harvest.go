// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package harvest saves the frames that a network driver was given and did not
// send: those it frees when it is closed, and those the queueing discipline above
// it purges. Without it they are lost, for nobody tells their senders.
//
// Two small eBPF programs on the kernel's tracepoints consume_skb and kfree_skb copy a
// frame out at the moment it is freed. They are loaded once, when a [Harvester] is
// made, and serve all roles, each by a [Field]; they are attached between
// [Field.Arm] and [Field.Disarm] of any. In passive mode the one for consumed frames
// is not, and the other only where no packet that is sent comes by it: passive mode
// pays nothing. Drivers that copy a frame on transmission and free it at once
// (ne2k-pci, 8139too) leave nothing to harvest. What is freed before a field is armed
// is had by more programs, see [Field.Watch].
//
// # Which freed socket buffer is an unsent frame
//
// Socket buffers of many kinds carry the device in skb->dev when they are freed.
// Of these, only frames on their way out are taken:
//
//   - skb->data is at the Ethernet header, or before it (a driver may have pushed
//     a header of its own): __dev_queue_xmit() sets mac_header there, whereas
//     eth_type_trans() pulls that header from a frame received;
//   - skb->skb_iif is not the device: __netif_receive_skb_core() sets it on all
//     that is received, and overwrites it once the bond has taken the frame over,
//     so a frame routed or bridged back out keeps nothing of it;
//   - skb->pkt_type is neither PACKET_OUTGOING, which marks the clones given to
//     packet sockets (dev_queue_xmit_nit()) and to error queues
//     (skb_set_err_queue()), nor PACKET_LOOPBACK;
//   - a frame without mac_header (sent past the queue) has a socket, and its data are not
//     at the network header: such a packet has no Ethernet header yet, as it waits for a
//     neighbour to be found (arp_queue of struct neighbour).
//
// The source MAC is no criterion: what bridges, macvlans and virtual machines send
// through the proxy has others.
//
// While hardware is absent nothing completes, so whatever a driver frees is unsent,
// save the frames sent in the last moment whose completion the driver had not seen:
// those are sent twice, at most as many as one interrupt covers. On hardware that
// works ([Target.Alive]) completions are told apart by time: what the driver frees
// while the interface runs was sent; __dev_close_many() clears __LINK_STATE_START
// before the driver's ndo_stop frees the rest.
//
// Out of reach are frames of the queueing disciplines fq and netem that are to leave
// before others that came earlier: those are in a tree whose node overlays skb->dev. So
// are frames of more than 65,450 bytes, the most a perf record holds; the latter are
// counted as failed.
//
// The package must never know why a device is given up, nor what becomes of the
// frames.
package harvest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/perf"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/netshadow/harvest/frame"
)

var (
	// ErrUnsupported reports a kernel that cannot run the programs: it carries no
	// BTF, forbids eBPF (lockdown), or lacks a function they attach to.
	ErrUnsupported = errors.New("kernel cannot run the harvest programs")
	// ErrArmed reports a second Arm without a Disarm.
	ErrArmed = errors.New("field is armed")
	// ErrRole reports a role beyond MaxRoles.
	ErrRole = errors.New("no such role")
	// ErrClosed reports the use of a closed harvester.
	ErrClosed = errors.New("harvester is closed")
)

// MaxRoles is how many roles can be served: ROLES in bpf/harvest.c.
const MaxRoles = 64

// Target says whose frames are harvested. An interface belongs to one role.
type Target struct {
	// Device is the ifindex of the interface whose driver goes.
	Device int
	// Proxy is the ifindex of the interface above it, 0 for none. Of the proxy
	// only what is lost while its queueing discipline is exchanged is harvested:
	// frames refused meanwhile, and frames purged with the old one.
	Proxy int
	// Port is the ifindex of the interface that the proxy's frames are released to,
	// 0 for none or not known yet. Of the port only frames are harvested that its
	// queue refused, as it does when more are released at once than it takes.
	Port int
	// Alive says that the device works, as on a reload. See the package comment.
	Alive bool
}

// Counters are totals since the programs were loaded, in frames, and go up to the
// last Sync or Disarm. What was seen and not taken is lost: freed while no process
// collected, larger than a perf record, without room in the buffer, beyond the limit,
// or not to be sent by another driver.
type Counters struct {
	Seen  uint64 // unsent frames that were freed
	Taken uint64 // of these, given out by Take of this process
}

const (
	defaultBuffer = 16 << 20
	minRing       = 1 << 20
	defaultLimit  = 64 << 20
)

// Option changes a [Harvester].
type Option func(*Harvester)

// WithBuffer sets the locked kernel memory for frames between a program and this
// process, in bytes, shared out among the CPUs, at least 1 MiB each. The default is
// 16 MiB. A driver frees its whole ring in one go, on one CPU, so that CPU's
// share should hold a ring.
func WithBuffer(bytes int) Option { return func(h *Harvester) { h.buffer = bytes } }

// WithLimit sets how many bytes of a role's frames are kept until [Field.Take];
// those beyond are counted as lost. The default is 64 MiB.
func WithLimit(bytes int) Option { return func(h *Harvester) { h.limit = bytes } }

// Harvester holds the loaded programs. Its methods, and those of its fields, may be
// used from several goroutines.
type Harvester struct {
	log    *slog.Logger
	buffer int
	limit  int
	pins   string // directory, "" for none

	kernel  objects
	early   earlyObjects
	reader  *perf.Reader
	drained chan struct{} // a value for each flush that has been served
	stopped chan struct{} // closed when the reading goroutine has ended

	arming            sync.Mutex  // serialises what is done to the kernel
	consumed, dropped link.Link   // nil while the program is not attached
	trouble           *time.Timer // nil if no device is expected to be gone
	closed            bool

	fields [MaxRoles]Field
}

// A Field is the harvest of one role.
type Field struct {
	h    *Harvester
	role uint8
	aims []uint32 // ifindexes in the kernel's map, none if not armed; h.arming guards it

	watched int  // ifindex in the kernel's map, 0 for none; h.arming guards it
	mixes   bool // the watched driver frees what it sent as dropped; h.arming guards it

	mu      sync.Mutex // guards what follows
	samples []sample
	kept    int // bytes in samples
	counts  Counters
	early   earlyLosses
}

// objects are what the kernel holds. What user space writes is in aims and watched,
// what it reads in seen and samples.
type objects struct {
	Consumed *ebpf.Program `ebpf:"consumed"`
	Dropped  *ebpf.Program `ebpf:"dropped"`
	Samples  *ebpf.Map     `ebpf:"samples"`
	Aims     *ebpf.Map     `ebpf:"aims"`
	Seen     *ebpf.Map     `ebpf:"seen"`
	Watched  *ebpf.Map     `ebpf:"watched"`
	// Listening is 1 while Dropped is attached.
	Listening *ebpf.Map `ebpf:"listening"`
}

// New loads the programs into the kernel without attaching them. It takes in the
// order of 100 ms, most of it for the kernel's type information, so it
// belongs into an agent's start. Programs that a predecessor has left, see
// [WithPins], are taken over instead, attached or not, in no time. It needs root.
// Errors match [ErrUnsupported] if the kernel is at fault. A nil logger discards.
func New(logger *slog.Logger, opts ...Option) (*Harvester, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	h := &Harvester{
		log:     logger,
		buffer:  defaultBuffer,
		limit:   defaultLimit,
		drained: make(chan struct{}, 1),
		stopped: make(chan struct{}),
	}
	for _, o := range opts {
		o(h)
	}
	if !h.inherit() {
		if err := h.load(); err != nil {
			return nil, fmt.Errorf("harvest: load: %w", err)
		}
		h.leave()
	}
	if err := h.sow(); err != nil {
		h.unload()
		return nil, fmt.Errorf("harvest: %w", err)
	}
	if err := h.early.attach(h.kernel); err != nil {
		h.log.Warn("harvest: frames that the kernel frees because a device has no carrier are lost", "err", err)
	}
	ring := max(h.buffer/runtime.NumCPU(), minRing)
	r, err := perf.NewReader(h.kernel.Samples, ring)
	if err != nil {
		h.unload()
		return nil, fmt.Errorf("harvest: open buffer of %d bytes a CPU: %w", ring, unsupported(err))
	}
	h.reader = r
	go h.read()
	return h, nil
}

// sow makes the fields, armed where a predecessor has left them so.
func (h *Harvester) sow() error {
	for i := range h.fields {
		f := &h.fields[i]
		f.h, f.role = h, uint8(i)
		if err := f.look(&f.counts.Seen); err != nil {
			return err
		}
	}
	if err := clearMap(h.kernel.Watched); err != nil {
		return fmt.Errorf("forget what a predecessor has watched: %w", err)
	}
	var (
		ifindex uint32
		a       aim
	)
	left := h.kernel.Aims.Iterate()
	for left.Next(&ifindex, &a) {
		f := &h.fields[a.Role%MaxRoles]
		f.aims = append(f.aims, ifindex)
	}
	if err := left.Err(); err != nil {
		return fmt.Errorf("read what is harvested: %w", err)
	}
	// One that was killed while it attached, or detached, left aims or links.
	var errs []error
	if h.consumed == nil {
		for i := range h.fields {
			errs = append(errs, h.fields[i].aim(Target{}))
		}
	}
	return errors.Join(append(errs, h.listen())...)
}

// clearMap empties the map of what is watched.
func clearMap(m *ebpf.Map) error {
	var (
		keys []uint32
		key  uint32
		w    watch
	)
	entries := m.Iterate()
	for entries.Next(&key, &w) {
		keys = append(keys, key)
	}
	errs := []error{entries.Err()}
	for _, k := range keys {
		errs = append(errs, m.Delete(k))
	}
	return errors.Join(errs...)
}

// Field returns the harvest of a role, a number below MaxRoles.
func (h *Harvester) Field(role int) (*Field, error) {
	if role < 0 || role >= MaxRoles {
		return nil, fmt.Errorf("harvest: role %d: %w", role, ErrRole)
	}
	return &h.fields[role], nil
}

// armed reports whether any field is.
func (h *Harvester) armed() bool {
	for i := range h.fields {
		if len(h.fields[i].aims) > 0 {
			return true
		}
	}
	return false
}

func (h *Harvester) load() error {
	spec, err := loadPrograms()
	if err != nil {
		return err
	}
	return unsupported(spec.LoadAndAssign(&h.kernel, nil))
}

func (h *Harvester) unload() error {
	k := h.kernel
	return errors.Join(h.early.close(), k.Consumed.Close(), k.Dropped.Close(),
		k.Samples.Close(), k.Aims.Close(), k.Seen.Close(), k.Watched.Close(), k.Listening.Close())
}

// Arm has the frames of t kept that are freed from now on, and those that were lost before
// because its device is gone: see [Field.Watch]. found is when that was noticed, on
// CLOCK_MONOTONIC. The programs are attached if they are not yet, which takes some
// milliseconds.
func (f *Field) Arm(ctx context.Context, t Target, found time.Duration) error {
	h := f.h
	h.arming.Lock()
	defer h.arming.Unlock()
	switch {
	case h.closed:
		return fmt.Errorf("harvest: arm interface %d: %w", t.Device, ErrClosed)
	case len(f.aims) > 0:
		return fmt.Errorf("harvest: arm interface %d: %w", t.Device, ErrArmed)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("harvest: arm interface %d: %w", t.Device, err)
	}
	err := f.aim(t)
	if err == nil {
		err = h.listen()
	}
	err = errors.Join(err, f.unwatch())
	if err != nil {
		return fmt.Errorf("harvest: arm interface %d: %w", t.Device, errors.Join(err, f.aim(Target{}), h.listen()))
	}
	f.adopt(found)
	return nil
}

// Armed reports whether the field is armed: by Arm, or by a predecessor.
func (f *Field) Armed() bool {
	f.h.arming.Lock()
	defer f.h.arming.Unlock()
	return len(f.aims) > 0
}

// Aim changes the target of an armed field, for instance when the port has become
// known. Frames taken so far are kept.
func (f *Field) Aim(t Target) error {
	f.h.arming.Lock()
	defer f.h.arming.Unlock()
	if f.h.closed {
		return fmt.Errorf("harvest: aim at interface %d: %w", t.Device, ErrClosed)
	}
	if err := f.aim(t); err != nil {
		return fmt.Errorf("harvest: aim at interface %d: %w", t.Device, err)
	}
	return nil
}

// aim is struct aim in bpf/harvest.c.
type aim struct{ Role, Part, Alive, _ uint8 }

// What an interface is to a role: enum part in bpf/harvest.c.
const (
	partDevice = iota
	partProxy
	partPort
)

// aim puts t into the kernel's map in place of what the field had there.
func (f *Field) aim(t Target) error {
	var (
		errs []error
		now  []uint32
	)
	for part, ifindex := range []int{partDevice: t.Device, partProxy: t.Proxy, partPort: t.Port} {
		if ifindex == 0 {
			continue
		}
		a := aim{Role: f.role, Part: uint8(part)}
		if t.Alive {
			a.Alive = 1
		}
		errs = append(errs, f.h.kernel.Aims.Put(uint32(ifindex), a))
		now = append(now, uint32(ifindex))
	}
	for _, ifindex := range f.aims {
		if !slices.Contains(now, ifindex) {
			errs = append(errs, f.h.kernel.Aims.Delete(ifindex))
		}
	}
	f.aims = now
	return errors.Join(errs...)
}

// Disarm ends the harvest of the field, and detaches the programs if no other needs
// them. When it returns, every frame they took is there for [Field.Take]. Disarming
// twice, or a field never armed, is no error. ctx bounds the wait for frames under
// way; the harvest ends regardless.
func (f *Field) Disarm(ctx context.Context) error {
	h := f.h
	h.arming.Lock()
	defer h.arming.Unlock()
	if len(f.aims) == 0 || h.closed {
		return nil
	}
	err := errors.Join(f.aim(Target{}), h.listen(), f.flush(ctx))
	f.mu.Lock()
	f.early.adopted = false
	f.mu.Unlock()
	if err != nil {
		return fmt.Errorf("harvest: disarm: %w", err)
	}
	return nil
}

// Sync makes sure that every frame taken so far is there for [Field.Take] while the
// field stays armed.
func (f *Field) Sync(ctx context.Context) error {
	f.h.arming.Lock()
	defer f.h.arming.Unlock()
	if f.h.closed {
		return fmt.Errorf("harvest: sync: %w", ErrClosed)
	}
	if err := f.flush(ctx); err != nil {
		return fmt.Errorf("harvest: sync: %w", err)
	}
	return nil
}

// flush waits until the reading goroutine has everything that programs wrote, and
// sets how far the counters go.
func (f *Field) flush(ctx context.Context) error {
	h := f.h
	var seen uint64
	if err := f.look(&seen); err != nil {
		return err
	}
	// A program may still be running on another CPU. It does so in an RCU
	// read-side section, and this command is synchronize_rcu()
	// (kernel/sched/membarrier.c).
	if err := globalBarrier(); err != nil {
		h.log.Debug("harvest: no global barrier", "err", err)
	}
	select {
	case <-h.drained: // left by a flush whose caller gave up
	default:
	}
	if err := h.reader.Flush(); err != nil {
		return fmt.Errorf("flush buffer: %w", err)
	}
	select {
	case <-h.drained:
		f.mu.Lock()
		defer f.mu.Unlock()
		f.counts.Seen = seen
		return nil
	case <-h.stopped:
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("flush buffer: %w", ctx.Err())
	}
}

// look reads the kernel's counter.
func (f *Field) look(seen *uint64) error {
	if err := f.h.kernel.Seen.Lookup(uint32(f.role), seen); err != nil {
		return fmt.Errorf("read counter: %w", err)
	}
	return nil
}

// membarrierGlobal is MEMBARRIER_CMD_GLOBAL (linux/membarrier.h).
const membarrierGlobal = 1 << 0

func globalBarrier() error {
	_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("membarrier", errno)
	}
	return nil
}

// read collects samples until the reader is closed.
func (h *Harvester) read() {
	defer close(h.stopped)
	var rec perf.Record
	for {
		err := h.reader.ReadInto(&rec)
		switch {
		case errors.Is(err, perf.ErrFlushed):
			select {
			case h.drained <- struct{}{}:
			default:
			}
		case errors.Is(err, perf.ErrClosed):
			return
		case err != nil:
			h.log.Error("harvest: read", "err", err)
			return
		case rec.LostSamples == 0: // lost samples are in the counters anyway
			h.keep(rec.RawSample)
		}
	}
}

func (h *Harvester) keep(raw []byte) {
	s, err := parseSample(raw)
	if err != nil {
		h.log.Warn("harvest: frame given up", "err", err)
		return
	}
	f := &h.fields[s.role%MaxRoles]
	switch { // not here: who waits for what is read may hold what these need
	case s.sent:
		go f.giveUp()
		return
	case s.trouble:
		go h.expectReset(time.Duration(s.number))
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.early && !f.early.adopted {
		f.early.add(s)
		return
	}
	if f.kept+len(s.data) > h.limit {
		return // lost, by the counters
	}
	f.kept += len(s.data)
	f.samples = append(f.samples, s)
}

// Take returns the frames harvested up to the last Sync or Disarm, and not returned
// before, in the order in which they would have left: in own those in the driver,
// per transmit queue, then those the device's queueing discipline had, then those that
// it no longer accepted; in behind those that were lost on the proxy or the port, which
// left after all others.
func (f *Field) Take() (own, behind []frame.Frame) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var samples, later []sample
	for _, s := range f.samples {
		if s.early || s.number < f.counts.Seen {
			samples = append(samples, s)
			f.kept -= len(s.data)
		} else {
			later = append(later, s)
		}
	}
	f.samples = later

	count := make(map[origin]int)
	for _, s := range order(samples) {
		count[s.origin]++
		fs, err := frame.Finish(s.skb, s.data)
		if err != nil {
			f.h.log.Warn("harvest: frame given up", "origin", s.origin, "len", len(s.data), "err", err)
			continue
		}
		if !s.early {
			f.counts.Taken++
		}
		if s.behind {
			behind = append(behind, fs...)
		} else {
			own = append(own, fs...)
		}
	}
	f.h.log.Debug("harvest: taken", "frames", len(own), "behind", len(behind), "driver", count[fromDriver],
		"requeued", count[fromRequeued], "queued", count[fromQueued], "refused", count[fromRefused])
	return own, behind
}

// Counters returns the totals. What is seen and not taken is lost once Take has
// followed the last Sync or Disarm.
func (f *Field) Counters() Counters {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts
}

// Close detaches and unloads the programs. Frames not taken are lost.
func (h *Harvester) Close() error {
	h.arming.Lock()
	defer h.arming.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	if h.trouble != nil {
		h.trouble.Stop()
	}
	err := errors.Join(h.detach(), h.reader.Close())
	<-h.stopped
	return errors.Join(err, h.unload())
}
