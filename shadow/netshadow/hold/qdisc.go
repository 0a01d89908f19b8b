// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package hold

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// tcmsgLen is the size in bytes of struct tcmsg (linux/rtnetlink.h).
const tcmsgLen = 20

// Attributes of a queueing discipline (linux/rtnetlink.h, linux/gen_stats.h).
const (
	tcaKind    = 1
	tcaOptions = 2
	tcaStats2  = 7

	statsBasic = 1 // struct gnet_stats_basic
	statsQueue = 3 // struct gnet_stats_queue
)

// qdisc is the root queueing discipline of an interface.
type qdisc struct {
	kind   string // empty: none
	handle uint32
	stats  Stats
}

func (q qdisc) ours() bool { return q.kind == "plug" && q.handle == handle }

// users tells a queueing discipline that somebody asked for from one that the
// kernel chose: the latter has handle 0 (attach_default_qdiscs()).
func (q qdisc) users() bool { return q.handle != 0 && !q.ours() }

// root returns the interface's root queueing discipline.
func (p *Plug) root(ctx context.Context, ifindex int) (qdisc, error) {
	// tc_dump_qdisc() ignores the interface and lists those of all.
	msgs, err := p.dump(ctx, netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETQDISC, Flags: netlink.Request | netlink.Dump},
		Data:   tcmsg(ifindex, 0, 0),
	})
	if err != nil {
		return qdisc{}, fmt.Errorf("list queueing disciplines: %w", err)
	}
	for _, m := range msgs {
		index, parent, q, err := parseQdisc(m.Data)
		if err != nil {
			return qdisc{}, fmt.Errorf("list queueing disciplines: %w", err)
		}
		if index == ifindex && parent == tcRoot {
			return q, nil
		}
	}
	return qdisc{}, nil
}

// tcRoot is TC_H_ROOT.
const tcRoot = 0xffffffff

func tcmsg(ifindex int, handle, parent uint32) []byte {
	b := make([]byte, tcmsgLen)
	binary.NativeEndian.PutUint32(b[4:], uint32(ifindex))
	binary.NativeEndian.PutUint32(b[8:], handle)
	binary.NativeEndian.PutUint32(b[12:], parent)
	return b
}

func parseQdisc(b []byte) (ifindex int, parent uint32, q qdisc, err error) {
	if len(b) < tcmsgLen {
		return 0, 0, qdisc{}, fmt.Errorf("tcmsg of %d bytes", len(b))
	}
	ifindex = int(int32(binary.NativeEndian.Uint32(b[4:])))
	q.handle = binary.NativeEndian.Uint32(b[8:])
	parent = binary.NativeEndian.Uint32(b[12:])
	d, err := netlink.NewAttributeDecoder(b[tcmsgLen:])
	if err != nil {
		return 0, 0, qdisc{}, err
	}
	for d.Next() {
		switch d.Type() {
		case tcaKind:
			q.kind = d.String()
		case tcaStats2:
			d.Nested(q.stats.decode)
		}
	}
	return ifindex, parent, q, d.Err()
}

// fair is how many times its own bytes may be overtaken by later ones: a fair queue
// serves its flows by turns, each with as many bytes (fq_codel_dequeue()). So many
// flows that never end are reckoned with.
const fair = 8

// settled reports whether all that was queued at first has left the queue. Frames
// cannot be counted on the way out: the kernel counts a segment each there, and what is
// yet to be segmented as one while it waits.
func (s Stats) settled(first Stats) bool {
	return s.Frames == 0 || s.Passed-first.Passed >= fair*uint64(first.Bytes)
}

func (s *Stats) decode(d *netlink.AttributeDecoder) error {
	for d.Next() {
		b := d.Bytes()
		switch d.Type() {
		case statsBasic: // u64 bytes, u32 packets
			if len(b) < 12 {
				return fmt.Errorf("gnet_stats_basic of %d bytes", len(b))
			}
			s.Passed = binary.NativeEndian.Uint64(b)
		case statsQueue: // u32 qlen, backlog, drops, requeues, overlimits
			if len(b) < 20 {
				return fmt.Errorf("gnet_stats_queue of %d bytes", len(b))
			}
			s.Frames = int(binary.NativeEndian.Uint32(b))
			s.Bytes = int(binary.NativeEndian.Uint32(b[4:]))
			s.Drops = int(binary.NativeEndian.Uint32(b[8:]))
		}
	}
	return nil
}

// request encodes a change of the root queueing discipline of an interface.
func request(typ netlink.HeaderType, flags netlink.HeaderFlags, ifindex int, option []byte) netlink.Message {
	data := tcmsg(ifindex, handle, tcRoot)
	if option != nil {
		data = appendAttribute(data, tcaKind, []byte("plug\x00"))
		data = appendAttribute(data, tcaOptions, option)
	}
	return netlink.Message{
		Header: netlink.Header{Type: typ, Flags: netlink.Request | netlink.Acknowledge | flags},
		Data:   data,
	}
}

// appendAttribute appends a struct nlattr and its value, padded to 4 bytes.
func appendAttribute(b []byte, typ uint16, value []byte) []byte {
	const header, align = 4, 4
	b = binary.NativeEndian.AppendUint16(b, uint16(header+len(value)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
	return append(b, make([]byte, -len(value)&(align-1))...)
}

// dump sends a request and receives the many messages of its answer.
func (p *Plug) dump(ctx context.Context, m netlink.Message) ([]netlink.Message, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn.Execute(m)
}

// execute sends requests in one message, so that the kernel serves them within one
// system call, each as soon as it has the rtnl lock, which a driver's close may keep
// for seconds. It returns the first error.
func (p *Plug) execute(ctx context.Context, msgs ...netlink.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return exchange(p.conn, msgs)
}

// exchange sends requests in one message, and receives the answer to each that wants an
// acknowledgement.
func exchange(conn *netlink.Conn, msgs []netlink.Message) error {
	if _, err := conn.SendMessages(msgs); err != nil {
		return err
	}
	var errs []error
	for _, m := range msgs {
		if m.Header.Flags&netlink.Acknowledge != 0 {
			_, err := conn.Receive()
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
