// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"encoding/binary"
	"fmt"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Sets of strings of the kernel, enum ethtool_stringset in
// include/uapi/linux/ethtool.h.
const (
	stringsFeatures  = 4
	stringsLinkModes = 9
)

// names are the kernel's names for the bits of its bit sets, by index.
type names struct {
	features, linkModes []string
}

// parseStrings reads the answer to stringsRequest.
func parseStrings(m genetlink.Message) (names, error) {
	var n names
	ad, err := netlink.NewAttributeDecoder(m.Data)
	if err != nil {
		return names{}, fmt.Errorf("strings message: %w", err)
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
		return names{}, fmt.Errorf("strings message: %w", err)
	}
	return n, nil
}

func (n *names) parseSet(ad *netlink.AttributeDecoder) error {
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
	switch id {
	case stringsFeatures:
		n.features = set
	case stringsLinkModes:
		n.linkModes = set
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

// stringsRequest asks for the names of features and link modes.
func stringsRequest() (genetlink.Message, error) {
	ae := netlink.NewAttributeEncoder()
	encodeHeader(ae, 0, 0)
	ae.Nested(unix.ETHTOOL_A_STRSET_STRINGSETS, func(ae *netlink.AttributeEncoder) error {
		for _, id := range []uint32{stringsFeatures, stringsLinkModes} {
			ae.Nested(unix.ETHTOOL_A_STRINGSETS_STRINGSET, func(ae *netlink.AttributeEncoder) error {
				ae.Uint32(unix.ETHTOOL_A_STRINGSET_ID, id)
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
