// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/umbra-vm/umbra/shadow/oplog"
)

// Rules by which a device chooses the queue of what it receives, ethtool's "ntuple".

// Commands of SIOCETHTOOL, include/uapi/linux/ethtool.h.
const (
	ethtoolCountRules = 0x2e // ETHTOOL_GRXCLSRLCNT
	ethtoolGetRule    = 0x2f // ETHTOOL_GRXCLSRULE
	ethtoolListRules  = 0x30 // ETHTOOL_GRXCLSRLALL
	ethtoolSetRule    = 0x32 // ETHTOOL_SRXCLSRLINS
)

// Layout of struct ethtool_rxnfc, and of the struct ethtool_rx_flow_spec in it.
const (
	sizeofRules = 192 // without the locations that follow

	specAt     = 16 // fs, behind cmd, flow_type and data
	valueAt    = specAt + 4
	maskAt     = valueAt + 72 // behind h_u of 52 bytes and h_ext of 20
	cookieAt   = specAt + 152 // ring_cookie
	locationAt = specAt + 160
	countAt    = specAt + 168 // rule_cnt, or rss_context
	placesAt   = countAt + 4  // rule_locs

	sizeofMatch = maskAt - valueAt // of value and of mask
)

// Flags of flow_type, and a cookie that is no queue.
const (
	flowContext = 0x20000000 // FLOW_RSS
	cookieDrop  = ^uint64(0) // RX_CLS_FLOW_DISC
	maxRules    = 1 << 13    // ixgbe's and mlx5's have 8192 at the most
)

// A rule is one of a device's.
type rule struct {
	flow   uint32 // *_FLOW, with FLOW_EXT and others
	cookie uint64 // a queue, with a virtual function's number above it, or cookieDrop
	value  [sizeofMatch]byte
	mask   [sizeofMatch]byte
}

// rulesRequest is struct ethtool_rxnfc with room for locations.
func rulesRequest(cmd, locations uint32) []byte {
	b := make([]byte, sizeofRules+4*int(locations))
	binary.NativeEndian.PutUint32(b, cmd)
	binary.NativeEndian.PutUint32(b[countAt:], locations)
	return b
}

func (r rule) encode(location uint32) []byte {
	b := rulesRequest(ethtoolSetRule, 0)
	binary.NativeEndian.PutUint32(b[specAt:], r.flow)
	copy(b[valueAt:], r.value[:])
	copy(b[maskAt:], r.mask[:])
	binary.NativeEndian.PutUint64(b[cookieAt:], r.cookie)
	binary.NativeEndian.PutUint32(b[locationAt:], location)
	return b
}

// parseAnswer reads the answer to ethtoolGetRule.
func parseAnswer(b []byte) (rule, error) {
	if len(b) < sizeofRules {
		return rule{}, fmt.Errorf("rule of %d bytes", len(b))
	}
	return rule{
		flow:   binary.NativeEndian.Uint32(b[specAt:]),
		cookie: binary.NativeEndian.Uint64(b[cookieAt:]),
		value:  [sizeofMatch]byte(b[valueAt:]),
		mask:   [sizeofMatch]byte(b[maskAt:]),
	}, nil
}

// String describes the rule in one line: the kind of flow, where it goes, and what has
// to match, of which the end is left out where it is 0.
func (r rule) String() string {
	to := "drop"
	if r.cookie != cookieDrop {
		to = fmt.Sprintf("%x", r.cookie)
	}
	return fmt.Sprintf("flow=%x,to=%s,value=%s,mask=%s", r.flow, to, short(r.value), short(r.mask))
}

func short(b [sizeofMatch]byte) string {
	return hex.EncodeToString([]byte(strings.TrimRight(string(b[:]), "\x00")))
}

// parseRule reads a rule from the form of String.
func parseRule(s string) (r rule, err error) {
	part := strings.Split(s, ",")
	names := []string{"flow=", "to=", "value=", "mask="}
	if len(part) != len(names) {
		return rule{}, fmt.Errorf("%.80q is no rule", s)
	}
	for i, name := range names {
		text, ok := strings.CutPrefix(part[i], name)
		if !ok {
			err = errors.New("not " + name)
		}
		switch {
		case err != nil:
		case i == 0:
			var flow uint64
			flow, err = strconv.ParseUint(text, 16, 32)
			r.flow = uint32(flow)
		case i == 1 && text == "drop":
			r.cookie = cookieDrop
		case i == 1:
			r.cookie, err = strconv.ParseUint(text, 16, 64)
		case i == 2:
			err = parseShort(text, &r.value)
		case i == 3:
			err = parseShort(text, &r.mask)
		}
		if err != nil {
			return rule{}, fmt.Errorf("%.80q is no rule: %w", s, err)
		}
	}
	return r, nil
}

func parseShort(text string, into *[sizeofMatch]byte) error {
	b, err := hex.DecodeString(text)
	if len(b) > sizeofMatch {
		return fmt.Errorf("%d bytes, at most %d", len(b), sizeofMatch)
	}
	copy(into[:], b)
	return err
}

func checkRule(value string) error {
	_, err := parseRule(value)
	return err
}

// getRules reads the rules of an interface.
func (io ioctls) getRules(ifname string) (Values, error) {
	b := rulesRequest(ethtoolCountRules, 0)
	if err := io.ethtool(ifname, b); err != nil {
		return nil, err
	}
	count := binary.NativeEndian.Uint32(b[countAt:])
	if count > maxRules {
		return nil, refusal{fmt.Errorf("%d rules, at most %d", count, maxRules)}
	}
	b = rulesRequest(ethtoolListRules, count)
	if err := io.ethtool(ifname, b); err != nil {
		return nil, err
	}
	values := make(Values)
	markListed(values, groupRules)
	for _, location := range locations(b) {
		b := rulesRequest(ethtoolGetRule, 0)
		binary.NativeEndian.PutUint32(b[locationAt:], location)
		if err := io.ethtool(ifname, b); err != nil {
			return nil, err
		}
		r, err := parseAnswer(b)
		if err != nil {
			return nil, err
		}
		values[rulePrefix+formatUint32(location)] = r.String()
	}
	return values, nil
}

// locations reads the answer to ethtoolListRules; the driver may tell of fewer rules
// than there is room for.
func locations(b []byte) (list []uint32) {
	count := int(binary.NativeEndian.Uint32(b[countAt:]))
	for b := range slices.Chunk(b[placesAt:], 4) {
		if len(list) < count && len(b) == 4 {
			list = append(list, binary.NativeEndian.Uint32(b))
		}
	}
	return list
}

// byLocation sorts rules as the device looks at them: of what it has no room for, the last
// ones are missing.
func byLocation(ops []oplog.Op) []oplog.Op {
	location := func(op oplog.Op) uint32 {
		n, err := parseUint32(strings.TrimPrefix(op.Key, rulePrefix))
		if err != nil {
			return math.MaxUint32 // to be refused
		}
		return n
	}
	return slices.SortedStableFunc(slices.Values(ops), func(a, b oplog.Op) int {
		return cmp.Compare(location(a), location(b))
	})
}

func (io ioctls) setRules(ifname string, ops []oplog.Op) error {
	for _, op := range ops {
		location, err := parseUint32(strings.TrimPrefix(op.Key, rulePrefix))
		if err != nil {
			return refusal{err}
		}
		r, err := parseRule(op.Value)
		if err != nil {
			return refusal{err}
		}
		if r.flow&flowContext != 0 {
			return refusal{errors.New("it names a context of receive hashing, which is not kept")}
		}
		if err := io.ethtool(ifname, r.encode(location)); err != nil {
			return err
		}
	}
	return nil
}
