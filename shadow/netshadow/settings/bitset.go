// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A stringSet is a set of strings of the kernel, enum ethtool_stringset in
// include/uapi/linux/ethtool.h.
type stringSet uint32

const (
	stringsFeatures      stringSet = 4
	stringsHashFunctions stringSet = 5
	stringsLinkModes     stringSet = 9
	stringsMessages      stringSet = 10
	stringsWake          stringSet = 11
	stringsStampTx       stringSet = 13
	stringsStampRx       stringSet = 14
)

// stringSets are those that are asked for.
var stringSets = []stringSet{
	stringsFeatures, stringsHashFunctions, stringsLinkModes, stringsMessages, stringsWake, stringsStampTx, stringsStampRx,
}

// names are the kernel's names for the bits of its bit sets, by index. One that
// has none is empty.
type names map[stringSet][]string

// parseStrings reads the answer to stringsRequest.
func parseStrings(m genetlink.Message) (names, error) {
	n := make(names)
	ad, err := netlink.NewAttributeDecoder(m.Data)
	if err != nil {
		return nil, fmt.Errorf("strings message: %w", err)
	}
	for ad.Next() {
		if ad.Type() != unix.ETHTOOL_A_STRSET_STRINGSETS {
			continue
		}
		ad.Nested(func(ad *netlink.AttributeDecoder) error {
			for ad.Next() {
				if ad.Type() == unix.ETHTOOL_A_STRINGSETS_STRINGSET {
					ad.Nested(n.parseSet)
				}
			}
			return nil
		})
	}
	if err := ad.Err(); err != nil {
		return nil, fmt.Errorf("strings message: %w", err)
	}
	return n, nil
}

func (n names) parseSet(ad *netlink.AttributeDecoder) error {
	var id uint32
	var set []string
	for ad.Next() {
		switch ad.Type() {
		case unix.ETHTOOL_A_STRINGSET_ID:
			id = ad.Uint32()
		case unix.ETHTOOL_A_STRINGSET_STRINGS:
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					ad.Nested(func(ad *netlink.AttributeDecoder) error {
						return parseString(ad, &set)
					})
				}
				return nil
			})
		}
	}
	if slices.Contains(stringSets, stringSet(id)) {
		n[stringSet(id)] = set
	}
	return nil
}

// maxStrings bounds the index of a string; Linux 6.1 has some 100 link modes.
const maxStrings = 4096

func parseString(ad *netlink.AttributeDecoder, set *[]string) error {
	index, value := uint32(0), ""
	for ad.Next() {
		switch ad.Type() {
		case unix.ETHTOOL_A_STRING_INDEX:
			index = ad.Uint32()
		case unix.ETHTOOL_A_STRING_VALUE:
			value = ad.String()
		}
	}
	if index >= maxStrings {
		return fmt.Errorf("string number %d", index)
	}
	for int(index) >= len(*set) {
		*set = append(*set, "")
	}
	(*set)[index] = value
	return nil
}

// stringsRequest asks for the names of all bits.
func stringsRequest() (genetlink.Message, error) {
	ae := netlink.NewAttributeEncoder()
	encodeHeader(ae, 0, 0)
	ae.Nested(unix.ETHTOOL_A_STRSET_STRINGSETS, func(ae *netlink.AttributeEncoder) error {
		for _, id := range stringSets {
			ae.Nested(unix.ETHTOOL_A_STRINGSETS_STRINGSET, func(ae *netlink.AttributeEncoder) error {
				ae.Uint32(unix.ETHTOOL_A_STRINGSET_ID, uint32(id))
				return nil
			})
		}
		return nil
	})
	return ethtoolMessage(unix.ETHTOOL_MSG_STRSET_GET, ae)
}

// A bitset is ethtool's compact form of a set: values and, unless the set is
// a plain list, a mask of the bits that it speaks of.
type bitset struct {
	size        int // in bits
	value, mask []uint32
}

func newBitset(size int) bitset {
	words := (size + 31) / 32
	return bitset{size, make([]uint32, words), make([]uint32, words)}
}

func (b *bitset) parse(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		switch ad.Type() {
		case unix.ETHTOOL_A_BITSET_SIZE:
			b.size = int(ad.Uint32())
		case unix.ETHTOOL_A_BITSET_VALUE:
			b.value = words(ad.Bytes())
		case unix.ETHTOOL_A_BITSET_MASK:
			b.mask = words(ad.Bytes())
		}
	}
	return nil
}

func words(b []byte) []uint32 {
	w := make([]uint32, len(b)/4)
	for i := range w {
		w[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

func (b bitset) encode(ae *netlink.AttributeEncoder) error {
	ae.Uint32(unix.ETHTOOL_A_BITSET_SIZE, uint32(b.size))
	ae.Bytes(unix.ETHTOOL_A_BITSET_VALUE, rawWords(b.value))
	ae.Bytes(unix.ETHTOOL_A_BITSET_MASK, rawWords(b.mask))
	return nil
}

func rawWords(w []uint32) []byte {
	raw := make([]byte, 0, 4*len(w))
	for _, v := range w {
		raw = binary.NativeEndian.AppendUint32(raw, v)
	}
	return raw
}

func (b bitset) put(i int, on bool) {
	b.mask[i/32] |= 1 << (i % 32)
	if on {
		b.value[i/32] |= 1 << (i % 32)
	}
}

func (b bitset) has(i int) bool    { return test(b.value, i) }
func (b bitset) inMask(i int) bool { return test(b.mask, i) }

func test(w []uint32, i int) bool { return i/32 < len(w) && w[i/32]>>(i%32)&1 != 0 }

// noBits is a list of no bits. Other lists are the names of the bits that are set,
// separated by commas.
const noBits = "none"

// list returns the set's bits that have a name and are wanted, and the names
// of those that can be set: all of a set without mask.
func (b bitset) list(names []string, wanted func(name string) bool) (value string, supported []string) {
	var set []string
	for i, name := range names {
		if name == "" || !wanted(name) {
			continue
		}
		if len(b.mask) == 0 || b.inMask(i) {
			supported = append(supported, name)
		}
		if b.has(i) {
			set = append(set, name)
		}
	}
	if len(set) == 0 {
		return noBits, supported
	}
	return strings.Join(set, ","), supported
}

// encodeList encodes the part of a list that can be set.
func encodeList(ae *netlink.AttributeEncoder, attr uint16, value string, supported, names []string) error {
	set := newBitset(len(names))
	want := strings.Split(value, ",")
	found := value == noBits
	for i, name := range names {
		if slices.Contains(supported, name) {
			on := slices.Contains(want, name)
			set.put(i, on)
			found = found || on
		}
	}
	if !found {
		return fmt.Errorf("the device has none of these")
	}
	ae.Nested(attr, set.encode)
	return nil
}

func everyName(string) bool { return true }
