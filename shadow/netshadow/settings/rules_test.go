// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// https is the rule of "ethtool -N DEV flow-type tcp4 src-ip 192.0.2.1 m 0.0.0.255
// dst-port 443 action 3": what ethtool calls a mask says which bits do not matter, so
// the kernel has the inverse of it.
var https = func() rule {
	r := rule{flow: 1, cookie: 3}
	copy(r.value[:], []byte{192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 443 >> 8, 443 & 0xff})
	copy(r.mask[:], []byte{255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 255, 255})
	return r
}()

const httpsText = "flow=1,to=3,value=c000020100000000000001bb,mask=ffffff0000000000" + "0000ffff"

func TestRuleIsWrittenInOneWay(t *testing.T) {
	full := rule{flow: 0x80000012, cookie: cookieDrop}
	full.value[sizeofMatch-1], full.mask[sizeofMatch-1] = 1, 0xff
	for name, tt := range map[string]struct {
		rule rule
		text string
	}{
		"a queue":                   {https, httpsText},
		"nowhere, matched entirely": {full, "flow=80000012,to=drop,value=" + strings.Repeat("00", 71) + "01,mask=" + strings.Repeat("00", 71) + "ff"},
		"everything to queue 0":     {rule{flow: 0xd}, "flow=d,to=0,value=,mask="},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tt.rule.String(); got != tt.text {
				t.Errorf("written %s, want %s", got, tt.text)
			}
			if got, err := parseRule(tt.text); err != nil || got != tt.rule {
				t.Errorf("read as %v, %v", got, err)
			}
		})
	}
}

func TestTextsThatAreNoRules(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":                   "",
		"a part is missing":         "flow=1,to=3,value=",
		"parts in another order":    "to=3,flow=1,value=,mask=",
		"a flow of 33 bits":         "flow=100000000,to=3,value=,mask=",
		"a queue that is none":      "flow=1,to=x,value=,mask=",
		"half a byte":               "flow=1,to=3,value=a,mask=",
		"more than there can match": "flow=1,to=3,value=" + strings.Repeat("ff", sizeofMatch+1) + ",mask=",
	} {
		if r, err := parseRule(text); err == nil {
			t.Errorf("%s: %q reads as %v", name, text, r)
		}
	}
}

// TestRuleRequest compares with the layout of struct ethtool_rxnfc that the kernel's
// own header gives to a compiler (x86-64): fs at 16, its values at 20 and masks at 92,
// ring_cookie at 168, location at 176, rule_cnt at 184, rule_locs at 188, all in 192
// bytes.
func TestRuleRequest(t *testing.T) {
	b := https.encode(9)
	if len(b) != 192 || binary.NativeEndian.Uint32(b) != 0x32 || binary.NativeEndian.Uint32(b[16:]) != 1 ||
		b[20] != 192 || b[92] != 255 || binary.NativeEndian.Uint64(b[168:]) != 3 || binary.NativeEndian.Uint32(b[176:]) != 9 {
		t.Errorf("request %x", b)
	}
	got, err := parseAnswer(b)
	if err != nil || got != https {
		t.Errorf("read as %v, %v", got, err)
	}
	if _, err := parseAnswer(b[:191]); err == nil {
		t.Error("a short answer is read")
	}
}

func TestLocationsOfRules(t *testing.T) {
	b := rulesRequest(ethtoolListRules, 3)
	for i, n := range []uint32{7, 2, 0} {
		binary.NativeEndian.PutUint32(b[placesAt+4*i:], n)
	}
	if diff := cmp.Diff([]uint32{7, 2, 0}, locations(b)); diff != "" {
		t.Errorf("as many as there is room for (-want +got)\n%s", diff)
	}
	binary.NativeEndian.PutUint32(b[countAt:], 2)
	if got := locations(b); !slices.Equal(got, []uint32{7, 2}) {
		t.Errorf("a driver that has fewer tells of %v", got)
	}
	binary.NativeEndian.PutUint32(b[countAt:], 1<<31)
	if got := locations(b); len(got) > 4 {
		t.Errorf("a driver that claims more tells of %d", len(got))
	}
}

func FuzzParseRule(f *testing.F) {
	f.Add(httpsText)
	f.Add("flow=80000012,to=drop,value=,mask=ff")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parseRule(text)
		if err != nil {
			return
		}
		if again, err := parseRule(r.String()); err != nil || again != r {
			t.Fatalf("%q became %v, %v", text, again, err)
		}
	})
}
