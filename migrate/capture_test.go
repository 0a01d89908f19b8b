// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

//go:build capture

package migrate

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// TestCaptureStreams writes the streams of migrate/stream/testdata anew; see the
// README there.
func TestCaptureStreams(t *testing.T) {
	const behind = "virtio-net-pci,id=behind,bus=rp0,romfile="
	for _, c := range []struct {
		file string
		spec machineSpec
	}{
		{"pc-e1000-asserted", machineSpec{machine: "pc", nic: nicE1000, assert: true}},
		{"q35-e1000-asserted", machineSpec{machine: "q35", nic: nicE1000, assert: true}},
		{"q35-virtio-express", machineSpec{machine: "q35", nic: nicVirtio, extra: []string{
			"-device", "pcie-root-port,id=rp0,chassis=1,slot=1,addr=4", "-device", behind}}},
	} {
		ctx := testContext(t)
		v := startVM(ctx, t, c.file, c.spec)
		v.lives(ctx)
		var out bytes.Buffer
		z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := z.Write(strip(t, capture(ctx, t, v))); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join("stream", "testdata", c.file+".gz"), out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// capture returns what a machine sends when it is migrated.
func capture(ctx context.Context, t *testing.T, v *vm) []byte {
	path := filepath.Join(v.dir, "capture")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := v.qmp.Execute(ctx, "migrate", map[string]string{"uri": "unix:" + path}, nil); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	all, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// strip leaves the first three pages of each kind in each RAM section, with
// their block's name each. It presumes a stream as QEMU 7.2 sends it.
func strip(t *testing.T, stream []byte) []byte {
	r := bufio.NewReader(bytes.NewReader(stream))
	var out bytes.Buffer
	get := func(n int) []byte {
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	pass := func(n int) []byte {
		b := get(n)
		out.Write(b)
		return b
	}
	pass(8)
	pass(1)
	pass(int(binary.BigEndian.Uint32(pass(4))))
	var name []byte
	for {
		kind, err := r.Peek(1)
		if err != nil {
			t.Fatal(err)
		}
		if kind[0] == 4 {
			rest, _ := io.ReadAll(r)
			out.Write(rest)
			return out.Bytes()
		}
		pass(5)
		if kind[0] == 1 {
			pass(int(pass(1)[0]))
			pass(8)
		}
		seen := map[uint64]int{}
		for done := false; !done; {
			header := get(8)
			flags := binary.BigEndian.Uint64(header) & 0xfff
			switch flags &^ 0x20 {
			case 0x10: // end
				out.Write(header)
				done = true
			case 0x04: // blocks
				out.Write(header)
				for left := binary.BigEndian.Uint64(header) &^ 0xfff; left > 0; {
					pass(int(pass(1)[0]))
					left -= binary.BigEndian.Uint64(pass(8))
				}
			case 0x02, 0x08: // zero page, page
				if flags&0x20 == 0 {
					n := get(1)
					name = append(n, get(int(n[0]))...)
				}
				payload := get(1 + int(flags&8)/8*4095)
				if kind := flags &^ 0x20; seen[kind] < 3 {
					seen[kind]++
					header[7] &^= 0x20
					out.Write(header)
					out.Write(name)
					out.Write(payload)
				}
			default:
				t.Fatalf("RAM flags %#x", flags)
			}
		}
		pass(5)
	}
}
