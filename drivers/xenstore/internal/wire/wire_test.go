// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package wire

import (
	"bytes"
	"strings"
	"testing"
)

func FuzzDecode(f *testing.F) {
	for _, m := range []Message{
		{Kind: WatchEvent, Payload: []byte("control/shutdown\x00token\x00")},
		{Kind: Error, Request: 3, Payload: []byte("ENOENT\x00")},
		{Kind: Read, Request: 1 << 31},
	} {
		b, err := m.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		m, err := Decode(r)
		if err != nil {
			return
		}
		if len(m.Payload) > MaxPayload {
			t.Fatalf("payload of %d bytes", len(m.Payload))
		}
		used := len(data) - r.Len()
		b, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		copy(data[8:12], []byte{0, 0, 0, 0}) // the transaction, which we have none of
		if !bytes.Equal(b, data[:used]) {
			t.Fatalf("%x became %x", data[:used], b)
		}
		if ws, err := Words(m.Payload); err == nil && len(strings.Join(append(ws, ""), "\x00")) != len(m.Payload) {
			t.Fatalf("%q became the words %q", m.Payload, ws)
		}
	})
}
