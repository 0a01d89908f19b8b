// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package hold keeps what applications send while no driver can send it, and
// sends it afterwards, in order.
//
// Frames wait in a "plug" queueing discipline that a [Plug] puts on the proxy in
// active mode: they stay socket buffers, so their order and their senders'
// accounting stay too, and they outlive this process. Where the user owns the
// proxy's root queueing discipline, a [TapReader] collects them from the TAP
// behind the proxy instead. A [Sender] puts harvested and collected frames on the
// new device.
//
// The package must never know what a driver or a recovery is; it is told which
// interface to hold and which to release to.
package hold

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

var (
	// ErrRootBusy reports that the user has put a queueing discipline of their
	// own on the interface: frames cannot be held there.
	ErrRootBusy = errors.New("interface has a queueing discipline of the user's")
	// ErrNotPlugged reports that the interface holds nothing.
	ErrNotPlugged = errors.New("interface is not plugged")
	// ErrNoPlug reports a kernel without the sch_plug module.
	ErrNoPlug = errors.New("kernel has no plug queueing discipline")
)

// OpError is the failure of an operation on an interface.
type OpError struct {
	Op      string // "plug", "stats", "release", "send", ...
	Ifindex int
	Err     error
}

func (e *OpError) Error() string {
	return fmt.Sprintf("hold: %s interface %d: %v", e.Op, e.Ifindex, e.Err)
}

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

// The actions of struct tc_plug_qopt (linux/pkt_sched.h, net/sched/sch_plug.c).
const (
	plugBuffer            = 0 // hold from here on
	plugReleaseIndefinite = 2 // let everything pass
	plugLimit             = 3 // change the limit in bytes
)

// handle is the root handle, 756d:, by which a successor knows a plug as ours.
const handle = 0x756d0000

// Stats is the state of a plug. Frames that were not segmented yet count once.
type Stats struct {
	Frames int    // held now
	Bytes  int    // of these
	Drops  int    // beyond the limit, since plugged
	Passed uint64 // bytes let through since plugged
}

// Released is the result of a release.
type Released struct {
	Held  int // frames held when the release began
	Bytes int // of these
	Drops int // frames beyond the limit while held
	// PortDrops counts the frames that the port's own queueing discipline dropped
	// during the release, by its own statistics.
	PortDrops int
}

// Plug puts plug queueing disciplines on interfaces and takes them away. It has no
// state of its own, all of it is in the kernel: a successor of a process that was
// killed goes on with what it finds. Its methods may be used from several
// goroutines.
type Plug struct {
	log    *slog.Logger
	divert func(ifindex, port int) (io.Closer, error) // see [divert]
	mu     sync.Mutex
	conn   *netlink.Conn
}

// NewPlug opens the rtnetlink socket. A nil logger discards.
func NewPlug(logger *slog.Logger) (*Plug, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("hold: open rtnetlink: %w", err)
	}
	// Extended acknowledgements only improve messages.
	_ = conn.SetOption(netlink.ExtendedAcknowledge, true)
	return newPlug(logger, conn, func(ifindex, port int) (io.Closer, error) { return newDivert(ifindex, port) }), nil
}

func newPlug(logger *slog.Logger, conn *netlink.Conn, divert func(ifindex, port int) (io.Closer, error)) *Plug {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Plug{log: logger, divert: divert, conn: conn}
}

// Close closes the socket. Plugs stay where they are.
func (p *Plug) Close() error { return p.conn.Close() }

// Hold makes the interface hold all that is sent through it, up to limit bytes;
// frames beyond are dropped and counted. Holding an interface that is held already,
// by a predecessor for instance, changes its limit and keeps its frames. Errors
// match [ErrRootBusy] or [ErrNoPlug].
//
// Frames sent while the queueing discipline is exchanged are refused by the kernel
// (noop_enqueue()) and do not reach the plug.
func (p *Plug) Hold(ctx context.Context, ifindex, limit int) error {
	q, err := p.root(ctx, ifindex)
	switch {
	case err != nil:
		return &OpError{"plug", ifindex, err}
	case q.ours():
		err = p.execute(ctx, change(ifindex, plugLimit, limit), change(ifindex, plugBuffer, 0))
	case q.users():
		err = fmt.Errorf("%w: %s, handle %x", ErrRootBusy, q.kind, q.handle>>16)
	default:
		err = p.create(ctx, ifindex, limit)
	}
	if err != nil {
		return &OpError{"plug", ifindex, err}
	}
	return nil
}

// Stats returns what the interface holds. Errors match [ErrNotPlugged].
func (p *Plug) Stats(ctx context.Context, ifindex int) (Stats, error) {
	q, err := p.plugged(ctx, ifindex)
	if err != nil {
		return Stats{}, &OpError{"stats", ifindex, err}
	}
	return q.stats, nil
}

// A port's queue is given at most this many frames at once: less than the 1000 of
// pfifo_fast, less than the 10240 of fq_codel.
const burst = 512

// Release lets the held frames go in their order, waits until they have gone, and
// removes the plug, whereupon the kernel gives the interface its default queueing
// discipline back. Frames sent meanwhile stay behind those held.
//
// port is the ifindex of the interface below, or 0. While the plug is removed, frames
// are led to the port around it; with 0, or a kernel without nft_fwd_netdev, those are
// refused by the kernel as in [Plug.Hold]. Many frames are released in
// portions, each when the last has been sent, lest the port's queue overflow, which
// nobody below notices; with 0 all are released at once. The portions are not exact:
// frames that a short queue refuses all the same are in PortDrops, and a harvester
// aimed at the port has them.
//
// If ctx ends or an error occurs, the plug is left in place, and Release may be
// called again. Errors match [ErrNotPlugged].
func (p *Plug) Release(ctx context.Context, ifindex, port int) (Released, error) {
	q, err := p.plugged(ctx, ifindex)
	if err != nil {
		return Released{}, &OpError{"release", ifindex, err}
	}
	res := Released{Held: q.stats.Frames, Bytes: q.stats.Bytes}
	var before qdisc
	if port != 0 {
		if before, err = p.root(ctx, port); err != nil {
			return res, &OpError{"release", ifindex, fmt.Errorf("port %d: %w", port, err)}
		}
	}
	if err := p.drain(ctx, ifindex, port, q.stats.Frames); err != nil {
		return res, &OpError{"release", ifindex, err}
	}
	if q, err = p.plugged(ctx, ifindex); err != nil {
		return res, &OpError{"release", ifindex, err}
	}
	res.Drops = q.stats.Drops
	if err := p.remove(ctx, ifindex, port); err != nil {
		return res, &OpError{"release", ifindex, err}
	}
	if port != 0 {
		after, err := p.root(ctx, port)
		if err != nil {
			return res, &OpError{"release", ifindex, fmt.Errorf("port %d: %w", port, err)}
		}
		res.PortDrops = after.stats.Drops - before.stats.Drops
	}
	return res, nil
}

// remove takes an open plug away.
func (p *Plug) remove(ctx context.Context, ifindex, port int) error {
	if port != 0 {
		d, err := p.divert(ifindex, port)
		if err != nil {
			p.log.Warn("what is sent while the plug is removed may be overtaken", "err", err)
		} else {
			defer func() {
				if err := d.Close(); err != nil {
					p.log.Warn("the kernel was left to end a divert", "err", err)
				}
			}()
		}
	}
	return p.execute(ctx, request(unix.RTM_DELQDISC, 0, ifindex, nil))
}

// drain opens the plug until it is empty.
//
// With more frames than a burst it opens and closes it in one system call, again and
// again: on opening, the kernel lets frames pass in a softirq of that call, 64 at a
// time and ten times at most (__qdisc_run(), __do_softirq()), before it serves the
// command that closes. Where softirqs have been left to ksoftirqd, that call lets none
// pass, or more than meant if ksoftirqd comes in between.
func (p *Plug) drain(ctx context.Context, ifindex, port, held int) error {
	open, shut := change(ifindex, plugReleaseIndefinite, 0), change(ifindex, plugBuffer, 0)
	for port != 0 && held > burst {
		if err := p.waitPort(ctx, port); err != nil {
			return err
		}
		if err := p.execute(ctx, open, shut); err != nil {
			return err
		}
		q, err := p.plugged(ctx, ifindex)
		if err != nil {
			return err
		}
		if q.stats.Frames >= held { // nothing passed: ksoftirqd's turn
			if err := p.execute(ctx, open); err != nil {
				return err
			}
			err := newWait().next(ctx)
			if err := errors.Join(err, p.execute(context.WithoutCancel(ctx), shut)); err != nil {
				return fmt.Errorf("%d frames still held: %w", q.stats.Frames, err)
			}
		}
		held = q.stats.Frames
	}
	if err := p.execute(ctx, open); err != nil {
		return err
	}
	for w := newWait(); ; {
		q, err := p.plugged(ctx, ifindex)
		if err != nil {
			return err
		}
		if q.stats.Frames == 0 {
			return nil
		}
		if err := w.next(ctx); err != nil {
			return fmt.Errorf("%d frames still held: %w", q.stats.Frames, err)
		}
	}
}

// waitPort waits until the port's queue is nearly empty.
func (p *Plug) waitPort(ctx context.Context, port int) error {
	for w := newWait(); ; {
		q, err := p.root(ctx, port)
		if err != nil {
			return fmt.Errorf("port %d: %w", port, err)
		}
		if q.stats.Frames < burst/8 {
			return nil
		}
		if err := w.next(ctx); err != nil {
			return fmt.Errorf("port %d has %d frames queued: %w", port, q.stats.Frames, err)
		}
	}
}

// settleLimit bounds Settle.
const settleLimit = 10 * time.Second

// Settle waits until the frames that are in the port's queue now have left it, as
// they do not all do by way of the driver: fq_codel, the default of many kernels,
// drops some of those that have waited for a slow device (codel_dequeue() of
// include/net/codel_impl.h: more than 5 ms, for 100 ms). A harvester that is aimed
// at the port until Settle returns has these.
//
// A queue that programs never let run empty and that is so slow that settleLimit is
// not enough is not waited for: what it drops then it drops of anybody.
func (p *Plug) Settle(ctx context.Context, port int) error {
	first, err := p.root(ctx, port)
	if err != nil {
		return &OpError{"settle", port, err}
	}
	limit, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	now := first
	for w := newWait(); !now.stats.settled(first.stats); {
		if err := w.next(limit); err != nil && ctx.Err() == nil {
			return nil
		} else if err != nil {
			return &OpError{"settle", port, fmt.Errorf("%d frames queued: %w", now.stats.Frames, err)}
		}
		if now, err = p.root(ctx, port); err != nil {
			return &OpError{"settle", port, err}
		}
	}
	return nil
}

func (p *Plug) plugged(ctx context.Context, ifindex int) (qdisc, error) {
	q, err := p.root(ctx, ifindex)
	if err != nil {
		return qdisc{}, err
	}
	if !q.ours() {
		return qdisc{}, ErrNotPlugged
	}
	return q, nil
}

func (p *Plug) create(ctx context.Context, ifindex, limit int) error {
	err := p.execute(ctx, request(unix.RTM_NEWQDISC, netlink.Create|netlink.Excl, ifindex, plugOption(plugBuffer, limit)))
	switch {
	case errors.Is(err, unix.EEXIST): // the user was faster
		return fmt.Errorf("%w: %w", ErrRootBusy, err)
	case errors.Is(err, unix.ENOENT): // qdisc_create(): "Specified qdisc kind is unknown"
		return fmt.Errorf("%w: %w", ErrNoPlug, err)
	}
	return err
}

func change(ifindex, action, limit int) netlink.Message {
	return request(unix.RTM_NEWQDISC, 0, ifindex, plugOption(action, limit))
}

// plugOption encodes struct tc_plug_qopt { int action; __u32 limit; }.
func plugOption(action, limit int) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(action))
	return binary.NativeEndian.AppendUint32(b, uint32(min(max(limit, 0), 1<<32-1)))
}

// wait is a pause that grows from 200 µs to 10 ms.
type wait struct{ d time.Duration }

func newWait() *wait { return &wait{200 * time.Microsecond} }

func (w *wait) next(ctx context.Context) error {
	t := time.NewTimer(w.d)
	defer t.Stop()
	w.d = min(2*w.d, 10*time.Millisecond)
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
