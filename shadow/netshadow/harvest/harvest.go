// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package harvest saves the frames that a network driver was given and did not
// send: those it frees when it is closed, and those the queueing discipline above
// it purges. Without it they are lost, for nobody tells their senders.
//
// Two small eBPF programs on the kernel's tracepoints consume_skb and kfree_skb copy a
// frame out at the moment it is freed. They are
// loaded when a [Harvester] is made and attached only between [Harvester.Arm] and
// [Harvester.Disarm]: passive mode pays nothing. Drivers that copy a frame on
// transmission and free it at once (ne2k-pci, 8139too) leave nothing to harvest.
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
//   - a frame without mac_header (sent past the queue) has a socket.
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
// Out of reach are frames of the queueing disciplines fq and netem, which keep
// them in a tree whose node overlays skb->dev, and frames of more than 65,450
// bytes, the most a perf record holds; the latter are counted as failed.
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
	"sync"

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
	ErrArmed = errors.New("harvester is armed")
	// ErrClosed reports the use of a closed harvester.
	ErrClosed = errors.New("harvester is closed")
)

// Target says whose frames are harvested.
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
	Taken uint64 // of these, given out by Take of this Harvester
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

// WithLimit sets how many bytes of frames are kept until [Harvester.Take]; those
// beyond are counted as lost. The default is 64 MiB.
func WithLimit(bytes int) Option { return func(h *Harvester) { h.limit = bytes } }

// Harvester holds the loaded programs. It serves one target at a time: a role
// has its own. Its methods may be used from several goroutines.
type Harvester struct {
	log    *slog.Logger
	buffer int
	limit  int
	pins   string // directory, "" for none

	kernel  objects
	reader  *perf.Reader
	drained chan struct{} // a value for each flush that has been served
	stopped chan struct{} // closed when the reading goroutine has ended

	arming sync.Mutex // serialises Arm, Disarm and Close
	links  []link.Link
	closed bool

	mu      sync.Mutex // guards what follows
	samples []sample
	kept    int // bytes in samples
	counts  Counters
}

// objects are what the kernel holds. What user space writes is in target, what it
// reads in seen and samples.
type objects struct {
	Consumed *ebpf.Program `ebpf:"consumed"`
	Dropped  *ebpf.Program `ebpf:"dropped"`
	Samples  *ebpf.Map     `ebpf:"samples"`
	Target   *ebpf.Map     `ebpf:".data.target"`
	Seen     *ebpf.Map     `ebpf:".data.seen"`
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
	if err := h.kernel.Seen.Lookup(uint32(0), &h.counts.Seen); err != nil {
		h.unload()
		return nil, fmt.Errorf("harvest: read counter: %w", err)
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

func (h *Harvester) load() error {
	spec, err := loadPrograms()
	if err != nil {
		return err
	}
	return unsupported(spec.LoadAndAssign(&h.kernel, nil))
}

func (h *Harvester) unload() error {
	k := h.kernel
	return errors.Join(k.Consumed.Close(), k.Dropped.Close(), k.Samples.Close(), k.Target.Close(), k.Seen.Close())
}

// unsupported marks the errors that mean "not on this kernel".
func unsupported(err error) error {
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, os.ErrNotExist) ||
		errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return err
}

// Arm attaches the programs: frames of t that are freed from now on are kept.
// It takes some milliseconds.
func (h *Harvester) Arm(ctx context.Context, t Target) error {
	h.arming.Lock()
	defer h.arming.Unlock()
	switch {
	case h.closed:
		return fmt.Errorf("harvest: arm interface %d: %w", t.Device, ErrClosed)
	case len(h.links) > 0:
		return fmt.Errorf("harvest: arm interface %d: %w", t.Device, ErrArmed)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("harvest: arm interface %d: %w", t.Device, err)
	}
	if err := h.aim(t); err != nil {
		return fmt.Errorf("harvest: arm interface %d: %w", t.Device, err)
	}
	for _, p := range []*ebpf.Program{h.kernel.Dropped, h.kernel.Consumed} {
		l, err := link.AttachTracing(link.TracingOptions{Program: p})
		if err != nil {
			h.detach()
			return fmt.Errorf("harvest: arm interface %d: attach %v: %w", t.Device, p, unsupported(err))
		}
		h.links = append(h.links, l)
	}
	h.pinLinks()
	return nil
}

// Armed reports whether the programs are attached: by Arm, or by a predecessor.
func (h *Harvester) Armed() bool {
	h.arming.Lock()
	defer h.arming.Unlock()
	return len(h.links) > 0
}

// Aim changes the target of an armed harvester, for instance when the port has become
// known. Frames taken so far are kept.
func (h *Harvester) Aim(t Target) error {
	h.arming.Lock()
	defer h.arming.Unlock()
	if h.closed {
		return fmt.Errorf("harvest: aim at interface %d: %w", t.Device, ErrClosed)
	}
	if err := h.aim(t); err != nil {
		return fmt.Errorf("harvest: aim at interface %d: %w", t.Device, err)
	}
	return nil
}

// target is struct target in bpf/harvest.c.
type target struct{ Device, Proxy, Port, Alive int32 }

func (h *Harvester) aim(t Target) error {
	v := target{int32(t.Device), int32(t.Proxy), int32(t.Port), 0}
	if t.Alive {
		v.Alive = 1
	}
	return h.kernel.Target.Put(uint32(0), v)
}

// Disarm detaches the programs. When it returns, every frame they took is there
// for [Harvester.Take]. Disarming twice, or a harvester never armed, is no error.
// ctx bounds the wait for frames under way; the programs are detached regardless.
func (h *Harvester) Disarm(ctx context.Context) error {
	h.arming.Lock()
	defer h.arming.Unlock()
	if len(h.links) == 0 || h.closed {
		return nil
	}
	if err := h.detach(); err != nil {
		return fmt.Errorf("harvest: disarm: %w", err)
	}
	if err := h.flush(ctx); err != nil {
		return fmt.Errorf("harvest: disarm: %w", err)
	}
	return nil
}

// Sync makes sure that every frame taken so far is there for [Harvester.Take]
// while the harvester stays armed.
func (h *Harvester) Sync(ctx context.Context) error {
	h.arming.Lock()
	defer h.arming.Unlock()
	if h.closed {
		return fmt.Errorf("harvest: sync: %w", ErrClosed)
	}
	if err := h.flush(ctx); err != nil {
		return fmt.Errorf("harvest: sync: %w", err)
	}
	return nil
}

func (h *Harvester) detach() error {
	var errs []error
	for _, l := range h.links {
		errs = append(errs, l.Unpin(), l.Close())
	}
	h.links = nil
	return errors.Join(errs...)
}

// flush waits until the reading goroutine has everything that programs wrote, and
// sets how far the counters go.
func (h *Harvester) flush(ctx context.Context) error {
	var seen uint64
	if err := h.kernel.Seen.Lookup(uint32(0), &seen); err != nil {
		return fmt.Errorf("read counter: %w", err)
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
		h.mu.Lock()
		defer h.mu.Unlock()
		h.counts.Seen = seen
		return nil
	case <-h.stopped:
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("flush buffer: %w", ctx.Err())
	}
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
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err != nil:
		h.log.Warn("harvest: frame given up", "err", err)
	case h.kept+len(s.data) > h.limit: // lost, by the counters
	default:
		h.kept += len(s.data)
		h.samples = append(h.samples, s)
	}
}

// Take returns the frames harvested up to the last Sync or Disarm, and not returned
// before, in the order in which they would have left: in own those in the driver,
// per transmit queue, then those the device's queueing discipline had, then those that
// it no longer accepted; in behind those that were lost on the proxy or the port, which
// left after all others.
func (h *Harvester) Take() (own, behind []frame.Frame) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var samples, later []sample
	for _, s := range h.samples {
		if s.number < h.counts.Seen {
			samples = append(samples, s)
			h.kept -= len(s.data)
		} else {
			later = append(later, s)
		}
	}
	h.samples = later

	count := make(map[origin]int)
	for _, s := range order(samples) {
		count[s.origin]++
		fs, err := frame.Finish(s.skb, s.data)
		if err != nil {
			h.log.Warn("harvest: frame given up", "origin", s.origin, "len", len(s.data), "err", err)
			continue
		}
		h.counts.Taken++
		if s.behind {
			behind = append(behind, fs...)
		} else {
			own = append(own, fs...)
		}
	}
	h.log.Debug("harvest: taken", "frames", len(own), "behind", len(behind), "driver", count[fromDriver],
		"requeued", count[fromRequeued], "queued", count[fromQueued], "refused", count[fromRefused])
	return own, behind
}

// Counters returns the totals. What is seen and not taken is lost once Take has
// followed the last Sync or Disarm.
func (h *Harvester) Counters() Counters {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.counts
}

// Close detaches and unloads the programs. Frames not taken are lost.
func (h *Harvester) Close() error {
	h.arming.Lock()
	defer h.arming.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	err := errors.Join(h.detach(), h.reader.Close())
	<-h.stopped
	return errors.Join(err, h.unload())
}
