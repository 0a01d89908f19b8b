// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/oplog"
)

// A refusal is an operation that we need not ask the kernel about.
type refusal struct{ err error }

func (r refusal) Error() string { return r.err.Error() }
func (r refusal) Unwrap() error { return r.err }

// Apply replays operations on an interface in one phase and returns those that
// it could not apply. It sets only what differs, so it can be repeated, and a
// replay is two calls with the same operations: with BeforeOpen, and after the
// interface was opened with AfterOpen, which tries again what the driver
// refused or forgot while it was down. What the second call returns is
// deferred for good on this device.
//
// What an interface cannot do, an unknown key and a malformed value are
// deferred, never an error. The error is about the interface as a whole and
// matches ErrNoInterface where there is none.
func (c *Client) Apply(ctx context.Context, ifname string, ops []oplog.Op, phase Phase) ([]Deferred, error) {
	link, err := c.link(ctx, ifname)
	if err != nil {
		return nil, err
	}
	p, deferred := plan(ops, phase)
	for g := range numGroups {
		if len(p[g]) == 0 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		d, err := c.applyGroup(ifname, link.index, g, p[g], phase)
		if err != nil {
			return nil, &OpError{"set " + g.String(), ifname, err}
		}
		deferred = append(deferred, d...)
	}
	if len(deferred) > 0 {
		// The interface itself may have gone meanwhile.
		if now, err := c.link(ctx, ifname); err != nil {
			return nil, err
		} else if now.index != link.index {
			return nil, &OpError{"replay", ifname, unix.ENODEV}
		}
	}
	slices.SortFunc(deferred, func(a, b Deferred) int {
		if n := rank(a.Op.Key) - rank(b.Op.Key); n != 0 {
			return n
		}
		return strings.Compare(a.Op.Key, b.Op.Key)
	})
	return deferred, nil
}

// plan sorts the operations of a phase into groups, each in the order of the
// table, and sets aside what cannot be tried at all.
func plan(ops []oplog.Op, phase Phase) (p [numGroups][]oplog.Op, deferred []Deferred) {
	ops = slices.Clone(ops)
	sortOps(ops)
	for _, op := range ops {
		o, ok := lookup(op.Key)
		if !ok {
			deferred = append(deferred, Deferred{op, "unknown operation"})
			continue
		}
		if err := o.check(op.Value); err != nil {
			deferred = append(deferred, Deferred{op, "malformed: " + err.Error()})
			continue
		}
		if o.Phase <= phase {
			p[o.group] = append(p[o.group], op)
		}
	}
	return p, deferred
}

func (c *Client) applyGroup(ifname string, index int, g group, ops []oplog.Op, phase Phase) ([]Deferred, error) {
	cur, err := c.k.get(g, index)
	if err != nil {
		if !refused(err) {
			return nil, err
		}
		return deferAll(ops, reason(err)), nil
	}
	differ := slices.DeleteFunc(slices.Clone(ops), func(op oplog.Op) bool {
		return cur.values[op.Key] == op.Value || phase == AfterOpen && untold(op, cur)
	})
	if len(differ) == 0 {
		return nil, nil
	}
	reasons := make(map[string]string) // by key, of what was refused
	for _, unit := range units(g, ops, differ) {
		if err := c.settle(index, g, unit, cur, reasons); err != nil {
			return nil, err
		}
	}
	now, err := c.k.get(g, index)
	if err != nil {
		if !refused(err) {
			return nil, err
		}
		return deferAll(differ, reason(err)), nil
	}
	var deferred []Deferred
	for _, op := range differ {
		why, ok := reasons[op.Key]
		if !ok {
			why = judge(g, op, now)
		}
		if why != "" {
			deferred = append(deferred, Deferred{op, why})
			continue
		}
		c.log.Debug("replayed", "device", ifname, "op", op.String())
	}
	return deferred, nil
}

// units returns what is to be set together at first. What a link negotiates is
// one thing: a speed alone, without its autoneg, means something else. Link
// settings, rules and what is of traffic control are requests of their own each.
func units(g group, ops, differ []oplog.Op) [][]oplog.Op {
	switch g {
	case groupLink:
		return singly(differ)
	case groupRules:
		return singly(byLocation(differ))
	case groupTraffic:
		return singly(inOrder(differ))
	case groupLinkModes:
		return [][]oplog.Op{ops}
	}
	return [][]oplog.Op{differ}
}

func singly(ops []oplog.Op) (units [][]oplog.Op) {
	for _, op := range ops {
		units = append(units, []oplog.Op{op})
	}
	return units
}

// settle sets a unit and, if the driver refuses, its operations one by one, so
// that one that it cannot do does not keep out the others.
func (c *Client) settle(index int, g group, unit []oplog.Op, cur report, reasons map[string]string) error {
	unit = offered(g, unit, cur, reasons)
	if len(unit) == 0 {
		return nil
	}
	err := c.k.set(g, index, unit, cur)
	if err == nil || !refused(err) {
		return err
	}
	if len(unit) == 1 || g == groupLinkModes {
		for _, op := range unit {
			reasons[op.Key] = reason(err)
		}
		return nil
	}
	for _, op := range unit {
		err := c.k.set(g, index, []oplog.Op{op}, cur)
		if err == nil {
			continue
		}
		if !refused(err) {
			return err
		}
		reasons[op.Key] = reason(err)
	}
	return nil
}

// offered leaves out the operations that the driver does not offer at all.
func offered(g group, unit []oplog.Op, cur report, reasons map[string]string) []oplog.Op {
	if g != groupFeatures {
		return unit
	}
	return slices.DeleteFunc(slices.Clone(unit), func(op oplog.Op) bool {
		_, ok := cur.values[op.Key]
		if !ok {
			reasons[op.Key] = "the driver cannot change this feature"
		}
		return !ok
	})
}

// judge compares what was set with what the driver says it did, and returns
// the reason why the operation is not done, or nothing if it is.
func judge(g group, op oplog.Op, now report) string {
	value, ok := now.values[op.Key]
	switch {
	case ok && value == op.Value:
		return ""
	case g == groupRings && ok:
		// Drivers round to what the hardware takes.
		return ""
	case slices.Contains(listKeys, op.Key) && op.Value != noBits:
		var missing []string
		for _, name := range strings.Split(op.Value, ",") {
			if !slices.Contains(now.supported, name) {
				missing = append(missing, name)
			}
		}
		if len(missing) > 0 {
			return "the device has no " + strings.Join(missing, ", ")
		}
	case untold(op, now):
		return ""
	}
	if !ok {
		return "the driver took it but does not report it"
	}
	return fmt.Sprintf("the driver keeps %s", value)
}

// untold reports whether op forces what the driver of an interface with forced
// link modes does not tell now: most tell speed and duplex only while there is a
// link. On an interface that was just opened it is what was set before, and to
// set it again would only take the link longer to come.
func untold(op oplog.Op, cur report) bool {
	_, told := cur.values[op.Key]
	return !told && (op.Key == keyLinkSpeed || op.Key == keyLinkDuplex) && cur.values[keyLinkAuto] == "off"
}

func deferAll(ops []oplog.Op, why string) []Deferred {
	deferred := make([]Deferred, 0, len(ops))
	for _, op := range ops {
		deferred = append(deferred, Deferred{op, why})
	}
	return deferred
}

// reason puts a refusal into words: the kernel's own if it gave any.
func reason(err error) string {
	var oe *netlink.OpError
	if errors.As(err, &oe) && oe.Message != "" {
		return strings.TrimSpace(oe.Message)
	}
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return "the driver has no such setting"
	case errors.Is(err, unix.EINVAL):
		return "the driver does not take this value"
	case errors.Is(err, unix.EBUSY):
		return "the driver does not take it while the interface is up"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return "not permitted"
	case errors.Is(err, unix.ENODEV):
		return "the device is away"
	case errors.Is(err, unix.ENOENT):
		return "the device has no such queue"
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}
