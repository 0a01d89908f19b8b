// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package peer

import (
	"context"
	"encoding/binary"
	"fmt"
)

const (
	tagAt    = 12 // in a frame: behind its addresses
	tagLen   = 4
	typeVLAN = 0x8100
	idMask   = 0xfff // of a tag's control information
)

// Tagged returns the link that a host on a VLAN has, where l carries it among
// others (IEEE 802.1Q): frames with its tag come from it, without it, and no others.
func Tagged(l Link, id uint16) (Link, error) {
	if id == 0 || id >= idMask {
		return nil, fmt.Errorf("peer: VLAN %d: ids go from 1 to %d", id, idMask-1)
	}
	return &tagged{l, id}, nil
}

type tagged struct {
	Link
	id uint16
}

func (t *tagged) ReadFrame(ctx context.Context) ([]byte, error) {
	for {
		f, err := t.Link.ReadFrame(ctx)
		if err != nil {
			return nil, err
		}
		if len(f) < tagAt+tagLen || binary.BigEndian.Uint16(f[tagAt:]) != typeVLAN ||
			binary.BigEndian.Uint16(f[tagAt+2:])&idMask != t.id {
			continue
		}
		plain := make([]byte, 0, len(f)-tagLen) // f belongs to others too
		return append(append(plain, f[:tagAt]...), f[tagAt+tagLen:]...), nil
	}
}

func (t *tagged) WriteFrame(f []byte) error {
	if len(f) < tagAt {
		return t.Link.WriteFrame(f) // which says what is wrong with it
	}
	b := make([]byte, 0, len(f)+tagLen)
	b = append(b, f[:tagAt]...)
	b = binary.BigEndian.AppendUint16(b, typeVLAN)
	b = binary.BigEndian.AppendUint16(b, t.id)
	return t.Link.WriteFrame(append(b, f[tagAt:]...))
}
