// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/netshadow/settings/traffic"
	"github.com/umbra-vm/umbra/shadow/oplog"
)

// trafficPrefixes are the families of traffic control by kind.
var trafficPrefixes = [...]string{
	traffic.Qdisc:  qdiscPrefix,
	traffic.Class:  classPrefix,
	traffic.Filter: filterPrefix,
}

// parseObject reads an object of traffic control from an operation.
func parseObject(op oplog.Op) (traffic.Object, error) {
	for kind, prefix := range trafficPrefixes {
		if name, ok := strings.CutPrefix(op.Key, prefix); ok {
			return traffic.Parse(traffic.Kind(kind), name, op.Value)
		}
	}
	return traffic.Object{}, fmt.Errorf("%s is nothing of traffic control", op.Key)
}

// getTraffic reads the traffic control of an interface. It asks for more only where
// there is more: an interface with the kernel's own queueing disciplines costs two
// requests.
func (s *sockets) getTraffic(index int) (Values, error) {
	values := make(Values)
	markListed(values, groupTraffic)
	list := func(kind traffic.Kind, parent uint32) ([]traffic.Object, error) {
		msgs, err := s.tc.Execute(traffic.List(kind, index, parent))
		if err != nil {
			return nil, err
		}
		objects, err := traffic.Decode(kind, index, msgs)
		if err == nil && len(values)+len(objects) > traffic.Max {
			err = traffic.ErrTooMany
		}
		if err != nil {
			return nil, refusal{err}
		}
		for _, o := range objects {
			values[trafficPrefixes[kind]+o.Name()] = o.Value()
		}
		return objects, nil
	}
	objects, err := list(traffic.Qdisc, 0)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(objects, traffic.Object.HasClasses) {
		classes, err := list(traffic.Class, 0)
		if err != nil {
			return nil, err
		}
		objects = append(objects, classes...)
	}
	for _, parent := range traffic.FilterParents(objects) {
		if _, err := list(traffic.Filter, parent); err != nil {
			return nil, err
		}
	}
	// The queueing disciplines of an interface that has gone are none.
	_, err = s.ioctls.name(index)
	return values, err
}

func (s *sockets) setTraffic(index int, ops []oplog.Op) error {
	for _, op := range ops {
		o, err := parseObject(op)
		if err != nil {
			return refusal{err}
		}
		req, err := o.Set(index)
		if err != nil {
			return refusal{err}
		}
		if _, err := s.tc.Execute(req); err != nil {
			return err
		}
	}
	return nil
}

// inOrder sorts operations of traffic control so that each comes after what it needs.
// Those that describe nothing come last, to be refused.
func inOrder(ops []oplog.Op) []oplog.Op {
	var objects []traffic.Object
	var rest []oplog.Op
	for _, op := range ops {
		if o, err := parseObject(op); err == nil {
			objects = append(objects, o)
		} else {
			rest = append(rest, op)
		}
	}
	traffic.Order(objects)
	var sorted []oplog.Op
	for _, o := range objects {
		sorted = append(sorted, oplog.Set(trafficPrefixes[o.Kind]+o.Name(), o.Value()))
	}
	return append(sorted, rest...)
}

// trafficNews reads a notification that an interface's traffic control has changed. It
// says what changed and not what follows from that, so all of it is to be read.
func trafficNews(m netlink.Message) (r report, ok bool) {
	index, ok := traffic.Announced(m)
	return report{index: index, group: groupTraffic, unnamed: true}, ok
}

// isTraffic tells the messages of the group RTNLGRP_TC from those of links.
func isTraffic(m netlink.Message) bool {
	return m.Header.Type != unix.RTM_NEWLINK && m.Header.Type != unix.RTM_DELLINK
}

// replaced returns the keys among carried that a new root, or a new ingress, queueing
// discipline takes the ground from: what could not be set on this device below the old
// one, and is not meant below the new.
func replaced(carried []string, key string) (keys []string) {
	for _, k := range carried {
		o, ok := lookup(k)
		if !ok || o.group != groupTraffic || k == key {
			continue
		}
		if name, ok := strings.CutPrefix(k, filterPrefix); ok {
			if strings.HasPrefix(name, ingressHandle) == (key == keyIngress) {
				keys = append(keys, k)
			}
			continue
		}
		if key == keyRoot && k != keyIngress {
			keys = append(keys, k)
		}
	}
	return keys
}

// Names of queueing disciplines that filters and others hang on.
const (
	keyRoot       = qdiscPrefix + "root"
	keyIngress    = qdiscPrefix + "ingress"
	ingressHandle = "ffff:"
)
