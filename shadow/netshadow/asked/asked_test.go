// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package asked

import (
	"encoding/binary"
	"net"
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"
)

// request encodes struct request as the programs do.
func request(kind, ifindex uint32, mac ...byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, kind)
	b = binary.NativeEndian.AppendUint32(b, ifindex)
	return append(append(b, mac...), make([]byte, 8-len(mac))...)
}

func TestParse(t *testing.T) {
	for name, tt := range map[string]struct {
		b     []byte
		want  Request
		fails bool
	}{
		"an address":             {request(kindAddress, 7, 0x52, 0x54, 0, 0, 0, 9), Request{7, net.HardwareAddr{0x52, 0x54, 0, 0, 0, 9}}, false},
		"an ioctl":               {request(kindCall, 0), Request{}, false},
		"what nobody writes":     {request(9, 7), Request{}, true},
		"less than there is":     {request(kindCall, 0)[:15], Request{}, true},
		"nothing":                {nil, Request{}, true},
		"more, as maps round up": {append(request(kindCall, 0), 0, 0), Request{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parse(tt.b)
			if (err != nil) != tt.fails {
				t.Fatalf("error %v", err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestProgramsMatchParser(t *testing.T) {
	spec, err := loadRequests()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"address", "ethtool", "ioctl"} {
		if spec.Programs[name] == nil {
			t.Errorf("no program %s", name)
		}
	}
	var layout *btf.Struct
	if err := spec.Types.TypeByName("request", &layout); err != nil {
		t.Fatal(err)
	}
	if int(layout.Size) != len(request(kindCall, 0)) {
		t.Errorf("the programs write %d bytes, we read %d", layout.Size, len(request(kindCall, 0)))
	}
}
