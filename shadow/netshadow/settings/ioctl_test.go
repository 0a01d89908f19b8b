// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/umbra-vm/umbra/shadow/oplog"
)

func TestTheTableOfAHashIsItsShortestPeriod(t *testing.T) {
	for name, tt := range map[string]struct {
		table, want []uint32
	}{
		"one queue":                           {[]uint32{0, 0, 0, 0}, []uint32{0}},
		"all queues in turn":                  {[]uint32{0, 1, 2, 3, 0, 1, 2, 3}, []uint32{0, 1, 2, 3}},
		"weights":                             {[]uint32{0, 0, 1, 0, 0, 1}, []uint32{0, 0, 1}},
		"a part that the end cuts is no part": {[]uint32{0, 1, 0, 1, 0}, []uint32{0, 1, 0, 1, 0}},
		"nothing repeats":                     {[]uint32{3, 1, 2}, []uint32{3, 1, 2}},
		"one entry":                           {[]uint32{5}, []uint32{5}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := period(tt.table); !slices.Equal(got, tt.want) {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

func TestAHashIsWantedOfADevice(t *testing.T) {
	device := hash{table: make([]uint32, 4), key: make([]byte, 2)}
	for name, tt := range map[string]struct {
		op    oplog.Op
		want  hash
		fails bool
	}{
		"a table repeats its part":           {oplog.Set(keyHashTable, "0,1"), hash{table: []uint32{0, 1, 0, 1}}, false},
		"a part that does not fit":           {oplog.Set(keyHashTable, "0,1,2"), hash{}, true},
		"a part that is longer":              {oplog.Set(keyHashTable, "0,1,2,3,4,5,6,7"), hash{}, true},
		"a key of the same length":           {oplog.Set(keyHashKey, "01ff"), hash{key: []byte{1, 0xff}}, false},
		"a key of another length":            {oplog.Set(keyHashKey, "01ff02"), hash{}, true},
		"a function by its name":             {oplog.Set(keyHashFunction, "xor"), hash{function: 2}, false},
		"a function that the kernel has not": {oplog.Set(keyHashFunction, "sha"), hash{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			var got hash
			err := got.take(tt.op, device, someNames)
			if (err != nil) != tt.fails {
				t.Fatalf("err %v", err)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(hash{}), cmpopts.EquateEmpty()); err == nil && diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestHashValues(t *testing.T) {
	got := Values{}
	hash{table: []uint32{0, 1, 0, 1}, key: []byte{0xab, 1}, function: 1}.values(got, someNames)
	want := Values{keyHashTable: "0,1", keyHashKey: "ab01", keyHashFunction: "toeplitz"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestHashFieldsAreWrittenInOneWay(t *testing.T) {
	for _, text := range []string{"none", "sd", "sdfn", "mvtsdfnr"} {
		fields, err := parseFields(text)
		if err != nil || formatFields(fields) != text {
			t.Errorf("%q reads as %#x (%v), which is written %q", text, fields, err, formatFields(fields))
		}
	}
	if err := checkHashFields("sdx"); err == nil {
		t.Error("a letter that no field has is accepted")
	}
}

func FuzzParseHash(f *testing.F) {
	f.Add(hash{table: []uint32{0, 1}, key: []byte{1, 2, 3}, function: 1}.encode(ethtoolGetHash))
	f.Add(hash{}.encode(ethtoolSetHash))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHash(b)
		if err != nil {
			return
		}
		again, err := parseHash(h.encode(ethtoolGetHash))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(h, again, cmp.AllowUnexported(hash{}), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("a hash reads back differently (-want +got)\n%s", diff)
		}
		values := make(Values)
		h.values(values, someNames)
		for key, value := range values {
			if o, ok := lookup(key); !ok || o.check(value) != nil {
				t.Errorf("%s=%s is read and cannot be set", key, value)
			}
		}
	})
}
