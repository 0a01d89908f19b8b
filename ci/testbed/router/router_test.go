// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package router

import (
	"context"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// wire is a link whose other end is the test.
type wire struct{ in, out chan []byte }

func (w wire) ReadFrame(ctx context.Context) ([]byte, error) {
	select {
	case f := <-w.in:
		return f, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (w wire) WriteFrame(b []byte) error {
	w.out <- append([]byte(nil), b...)
	return nil
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var config = Config{
	MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Address: netip.MustParseAddr("fe80::1"), Prefix: netip.MustParsePrefix("fd99::/64"),
	Managed: true, DNS: []netip.Addr{netip.MustParseAddr("fd99::53")},
	Lifetime: 30 * time.Minute, Preferred: time.Hour, Valid: 2 * time.Hour, Interval: time.Hour,
}

func start(t *testing.T) (*Router, wire) {
	t.Helper()
	w := wire{make(chan []byte), make(chan []byte, 8)}
	r, err := New(w, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, w
}

// Of hosts' frames the checksum is not looked at: the network has none that fail.
const (
	solicitation = "333300000002 525400000001 86dd 60000000 0008 3a ff" +
		"fe800000000000000000000000000005 ff020000000000000000000000000002 8500 0000 00000000"
	question = "020000000001 525400000001 86dd 60000000 0018 3a ff" +
		"fe800000000000000000000000000005 fe800000000000000000000000000001" +
		"8700 0000 00000000 fe800000000000000000000000000001"
	check = "3333ff000005 525400000001 86dd 60000000 0018 3a ff" +
		"00000000000000000000000000000000 ff0200000000000000000001ff000005" +
		"8700 0000 00000000 fd990000000000000000000000000005"
	announcement = "333300000001 525400000001 86dd 60000000 0020 3a ff" +
		"fd990000000000000000000000000005 ff020000000000000000000000000001" +
		"8800 0000 20000000 fd990000000000000000000000000005 0201 525400000001"
)

func TestAnswers(t *testing.T) {
	const advert = "333300000001 020000000001 86dd 60000000 0050 3a ff" +
		"fe800000000000000000000000000001 ff020000000000000000000000000001" +
		"8600 SUM_ 40 80 0708 00000000 00000000" +
		"1903 0000 00000708 fd990000000000000000000000000053" +
		"0304 40 c0 00001c20 00000e10 00000000 fd990000000000000000000000000000" +
		"0101 020000000001"
	const answer = "525400000001 020000000001 86dd 60000000 0020 3a ff" +
		"fe800000000000000000000000000001 fe800000000000000000000000000005" +
		"8800 SUM_ e0000000 fe800000000000000000000000000001 0201 020000000001"
	for _, tt := range []struct {
		name      string
		says, hop string
		want      string
	}{
		{"who looks for a router hears of the prefix, the name server and the M flag", solicitation, "ff", advert},
		{"who asks for the router's hardware address is told that it is a router", question, "ff", answer},
		{"a solicitation that was forwarded is not believed", solicitation, "fe", ""},
		{"an announcement needs no answer", announcement, "ff", ""},
		{"nor a check for a duplicate of another address", check, "ff", ""},
		{"a frame that is cut short", solicitation[:60], "ff", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, _ := start(t)
			got, err := r.heard(unhex(t, strings.Replace(tt.says, "3a ff", "3a "+tt.hop, 1)))
			if err != nil {
				t.Fatal(err)
			}
			want := strings.Join(strings.Fields(tt.want), "")
			text := hex.EncodeToString(got)
			if want != "" && text != "" {
				sum(t, got)
				text = text[:112] + "SUM_" + text[116:]
			}
			if d := cmp.Diff(want, text); d != "" {
				t.Error(d)
			}
		})
	}
}

// sum adds up what a receiver does (RFC 4443, 2.3).
func sum(t *testing.T, b []byte) {
	t.Helper()
	total := uint32(len(b)-54) + 58
	for i := 22; i < len(b); i += 2 {
		total += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for total > 0xffff {
		total = total>>16 + total&0xffff
	}
	if total != 0xffff {
		t.Errorf("checksum: sums up to %#x, want 0xffff", total)
	}
}

func TestTableOfNeighbours(t *testing.T) {
	r, w := start(t)
	for _, f := range []string{check, announcement, announcement, question, solicitation} {
		w.in <- unhex(t, f)
	}
	<-w.out // the answer to the question
	<-w.out // the advertisement
	want := map[netip.Addr]Neighbour{
		netip.MustParseAddr("fd99::5"): {MAC: net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}, Announced: 2, Checked: 1},
	}
	if d := cmp.Diff(want, r.Neighbours(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("neighbours (-want +got):\n%s", d)
	}
	if r.Solicited() != 1 {
		t.Errorf("solicited %d times, want once", r.Solicited())
	}
}

func TestAdvertisesUnasked(t *testing.T) {
	cfg := config
	cfg.Interval = time.Millisecond
	w := wire{make(chan []byte), make(chan []byte)}
	r, err := New(w, cfg)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if f := <-w.out; f[54] != 134 {
			t.Errorf("it says % x", f)
		}
	}
	go func() {
		for range w.out { // what it says until it has ended
		}
	}()
	r.Close()
	close(w.out)
}

func TestRouterNeedsToKnowWhoItIs(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no MAC":           func(c *Config) { c.MAC = nil },
		"a global address": func(c *Config) { c.Address = netip.MustParseAddr("fd99::1") },
	} {
		cfg := config
		change(&cfg)
		if _, err := New(wire{}, cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
