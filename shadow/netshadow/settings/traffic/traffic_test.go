// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package traffic

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const device = 7

// object reads an object, whose words are its kind, its name and its value.
func object(t testing.TB, words string) Object {
	t.Helper()
	f := strings.Fields(words)
	kind := map[string]Kind{"qdisc": Qdisc, "class": Class, "filter": Filter}[f[0]]
	o, err := Parse(kind, f[1], f[2])
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// words writes an object as object reads it.
func words(o Object) string {
	return []string{"qdisc", "class", "filter"}[o.Kind] + " " + o.Name() + " " + o.Value()
}

func TestObjectIsWrittenInOneWay(t *testing.T) {
	for _, text := range []string{
		"qdisc root fq,handle=1:",
		"qdisc ingress clsact,handle=ffff:",
		"qdisc 1:a sfq,handle=8001:,options=0102",
		"qdisc ingress ingress,handle=ffff:,options=,ingress-block=01000000",
		"class 1:10 htb,parent=1:1,options=00ff",
		"class 1:1 htb,parent=root,options=00",
		"filter 1:/0/1/0800/800 u32,options=0011",
		"filter ffff:fff2/4/49152/0003/1 matchall,options=",
	} {
		if got := words(object(t, text)); got != text {
			t.Errorf("%q is written %q", text, got)
		}
	}
}

func TestTextsThatAreNoObjects(t *testing.T) {
	for what, tt := range map[string]struct {
		kind        Kind
		name, value string
	}{
		"a parent that is no handle":         {Qdisc, "top", "fq,handle=1:"},
		"a handle of 17 bits":                {Qdisc, "root", "fq,handle=10000:"},
		"a handle that is not written so":    {Qdisc, "root", "fq,handle=1:0"},
		"no type":                            {Qdisc, "root", ",handle=1:"},
		"a type longer than the kernel's":    {Qdisc, "root", "abcdefghijklmnop,handle=1:"},
		"half a byte":                        {Qdisc, "root", "fq,handle=1:,options=0"},
		"capitals":                           {Qdisc, "root", "fq,handle=1:,options=AB"},
		"an attribute that is not kept":      {Qdisc, "root", "fq,handle=1:,stats=00"},
		"attributes in another order":        {Qdisc, "root", "fq,handle=1:,stab=00,options=00"},
		"one twice":                          {Qdisc, "root", "fq,handle=1:,options=00,options=00"},
		"a class with a handle":              {Class, "1:1", "htb,handle=1:,parent=1:"},
		"a filter with too little of a name": {Filter, "1:/0/1/0800", "u32"},
		"a priority of 17 bits":              {Filter, "1:/0/65536/0800/1", "u32"},
		"a protocol that is a name":          {Filter, "1:/0/1/ip/1", "u32"},
	} {
		if o, err := Parse(tt.kind, tt.name, tt.value); !errors.Is(err, ErrBadObject) {
			t.Errorf("%s: %+v, %v", what, o, err)
		}
	}
}

// TestOrder shuffles objects, and finds each behind what it needs.
func TestOrder(t *testing.T) {
	want := []string{
		"qdisc root htb,handle=1:",
		"class 1:1 htb,parent=root",
		"class 1:10 htb,parent=1:1",
		"qdisc 1:10 prio,handle=2:",
		"qdisc 2:3 htb,handle=3:", // of a class that prio makes
		"class 3:1 htb,parent=3:",
		"filter 1:/0/5/0800/600000 u32,options=0800040000010000", // a table
		"filter 1:/0/5/0800/600001 u32,options=0800020000006000",
	}
	for seed := range int64(50) {
		objects := make([]Object, len(want))
		for i, o := range rand.New(rand.NewSource(seed)).Perm(len(want)) {
			objects[i] = object(t, want[o])
		}
		Order(objects)
		var got []string
		for _, o := range objects {
			got = append(got, words(o))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("seed %d (-want +got)\n%s", seed, diff)
		}
	}
}

func TestOrderOfObjectsThatAreAboveOneAnother(t *testing.T) {
	Order([]Object{object(t, "class 1:1 htb,parent=1:2"), object(t, "class 1:2 htb,parent=1:1")}) // ends
}

// attr encodes an attribute.
func attr(typ uint16, v ...[]byte) []byte { return appendAttr(nil, typ, bytes.Join(v, nil)) }

func u32s(n ...uint32) (b []byte) {
	for _, n := range n {
		b = binary.NativeEndian.AppendUint32(b, n)
	}
	return b
}

func message(typ netlink.HeaderType, index int, handle, parent, info uint32, kind string, attrs ...[]byte) netlink.Message {
	data := append(tcmsg(index, handle, parent, info), attr(tcaKind, []byte(kind+"\x00"))...)
	return netlink.Message{Header: netlink.Header{Type: typ}, Data: append(data, bytes.Join(attrs, nil)...)}
}

func TestDecode(t *testing.T) {
	const filter, qdisc, class = unix.RTM_NEWTFILTER, unix.RTM_NEWQDISC, unix.RTM_NEWTCLASS
	const info = 5<<16 | 0x0008 // priority 5, ip in the order of the network
	node := func(table uint32) []byte { return attr(tcaOptions, attr(u32Hash, u32s(table))) }
	table := attr(tcaOptions, attr(u32Divisor, u32s(1)))
	action := func(counts uint32) []byte {
		return attr(1,
			attr(actKind, []byte("gact\x00")), attr(4, u32s(counts)), // TCA_ACT_STATS
			attr(actOptions, attr(1, u32s(counts, 0)), attr(2, u32s(3, 0, 2, counts, counts))))
	}
	for name, tt := range map[string]struct {
		kind Kind
		msgs []netlink.Message
		want []string
	}{
		"the kernel's own queueing disciplines, and other interfaces', are left out": {
			Qdisc, []netlink.Message{
				message(qdisc, device, 0, root, 2, "mq"), message(qdisc, device, 0, 1, 2, "fq_codel"),
				message(qdisc, device+1, 0x10000, root, 2, "fq"), message(qdisc, device, 0x80010000, root, 2, "fq", attr(tcaOptions, u32s(9))),
			}, []string{"qdisc root fq,handle=8001:,options=09000000"},
		},
		"htb tells another version than it takes, and counts": {
			Qdisc, []netlink.Message{message(qdisc, device, 0x10000, root, 2, "htb",
				attr(tcaOptions, attr(htbInit, u32s(0x30011, 10, 3, 0, 77)), attr(5, u32s(1000))))},
			[]string{"qdisc root htb,handle=1:,options=" + hex.EncodeToString(append(attr(htbInit, u32s(3, 10, 3, 0, 0)), attr(5, u32s(1000))...))},
		},
		"sfq counts, and has more flows than it asks for": {
			Qdisc, []netlink.Message{message(qdisc, device, 0x10000, root, 2, "sfq",
				attr(tcaOptions, u32s(1514, 10, 127, 1024, 128, 127), make([]byte, 24), u32s(1, 2, 3, 4, 5, 6)))},
			[]string{"qdisc root sfq,handle=1:,options=" + hex.EncodeToString(append(u32s(1514, 10, 127, 1024, 127, 127), make([]byte, 48)...))},
		},
		"a policer of the old way counts, and tells when": {
			Filter, []netlink.Message{message(filter, device, 1, 0x10000, info, "u32", attr(tcaChain, u32s(0)),
				attr(tcaOptions, attr(6, attr(policeTBF, make([]byte, 44), u32s(1, 1, 0)), attr(6, u32s(99)))))},
			[]string{"filter 1:/0/5/0800/1 u32,options=" + hex.EncodeToString(attr(6, attr(policeTBF, make([]byte, 56))))},
		},
		"classes that nobody made are left out, and the level of one is no setting": {
			Class, []netlink.Message{
				message(class, device, 0x50001, 0x50000, 0, "prio"), message(class, device, 0x10000, root, 0, "hfsc", attr(tcaOptions)),
				message(class, device, 0x10001, root, 0, "htb", attr(tcaOptions, attr(htbParms, make([]byte, 36), u32s(7, 1)))),
			},
			[]string{"class 1:1 htb,parent=root,options=" + hex.EncodeToString(attr(htbParms, make([]byte, 40), u32s(1)))},
		},
		"the table that u32 makes by itself, and its number, are left out": {
			Filter, []netlink.Message{
				message(filter, device, 0, 0x10000, info, "u32", attr(tcaChain, u32s(0))), // stands for the priority
				message(filter, device, 0x80100000, 0x10000, info, "u32", attr(tcaChain, u32s(0)), table),
				message(filter, device, 0x80100800, 0x10000, info, "u32", attr(tcaChain, u32s(0)), node(0x80100000)),
				message(filter, device, 0x80200000, 0x10000, info, "u32", attr(tcaChain, u32s(0)), table),
				message(filter, device, 0x80200801, 0x10000, info, "u32", attr(tcaChain, u32s(0)), node(0x80200000)),
			},
			[]string{
				"filter 1:/0/5/0800/800 u32,options=" + hex.EncodeToString(attr(u32Hash, u32s(u32Root))),
				"filter 1:/0/5/0800/80200000 u32,options=" + hex.EncodeToString(attr(u32Divisor, u32s(1))),
				"filter 1:/0/5/0800/80200801 u32,options=" + hex.EncodeToString(attr(u32Hash, u32s(0x80200000))),
			},
		},
		"what hardware made of a filter, and what its actions count, is left out": {
			Filter, []netlink.Message{message(filter, device, 1, 0xfffffff2, info, "flower", attr(tcaChain, u32s(4)),
				attr(tcaOptions, attr(3, action(99)), attr(22, u32s(1<<3)), attr(86, u32s(2))))},
			[]string{"filter ffff:fff2/4/5/0800/1 flower,options=" + hex.EncodeToString(attr(3, attr(1,
				attr(actKind, []byte("gact\x00")), attr(actOptions, attr(2, u32s(3, 0, 2, 0, 0))))))},
		},
		"that hardware must not, or has to, do it is a wish": {
			Filter, []netlink.Message{message(filter, device, 1, 0xfffffff2, info, "flower", attr(tcaChain, u32s(0)),
				attr(tcaOptions, attr(22, u32s(1|1<<3))))},
			[]string{"filter ffff:fff2/0/5/0800/1 flower,options=" + hex.EncodeToString(attr(22, u32s(1)))},
		},
	} {
		t.Run(name, func(t *testing.T) {
			objects, err := Decode(tt.kind, device, tt.msgs)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, o := range objects {
				got = append(got, words(o))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestAnObjectThatIsTooLarge(t *testing.T) {
	m := message(unix.RTM_NEWQDISC, device, 0x10000, root, 2, "taprio", attr(tcaOptions, make([]byte, maxOptions+1)))
	if _, err := Decode(Qdisc, device, []netlink.Message{m}); !errors.Is(err, ErrTooMany) {
		t.Errorf("error %v", err)
	}
}

// TestRestore: what the kernel wants to be told otherwise than it tells.
func TestRestore(t *testing.T) {
	nested := func(typ uint16) uint16 { return typ | netlink.Nested }
	policer := func(cellLog byte) []byte {
		b := make([]byte, 56)
		b[20] = cellLog
		binary.NativeEndian.PutUint32(b[20+rateRate:], 125000)
		return attr(policeTBF, b)
	}
	table := attr(policeRate, make([]byte, 1024))
	kind := attr(actKind, []byte("police\x00"))
	for name, tt := range map[string]struct {
		object     string
		told, want []byte
	}{
		"a policer has tables": {
			"filter 1:/0/1/0800/1 matchall", attr(2, attr(1, kind, attr(actOptions, policer(0)))),
			attr(2, attr(1, kind, attr(nested(actOptions), policer(cellLog), table))),
		},
		"one that is no action too": {
			"filter 1:/0/1/0800/1 u32", attr(6, policer(0)), attr(6, policer(cellLog), table),
		},
		"a time that the kernel rounds down again": {
			"qdisc root fq_codel,handle=1:", append(attr(1, u32s(2999)), attr(2, u32s(600))...),
			append(attr(1, u32s(3000)), attr(2, u32s(600))...),
		},
		"a time that it does not round": {
			"qdisc root fq_codel,handle=1:", attr(3, u32s(128)), attr(3, u32s(128)),
		},
		"what is behind a VLAN tag": {
			"filter 1:/0/2/8100/1 flower", append(attr(8, []byte{8, 0}), attr(23, []byte{42, 0})...),
			append(attr(23, []byte{42, 0}), attr(8, []byte{0x81, 0})...),
		},
		"what is behind none": {
			"filter 1:/0/2/0800/1 flower", attr(8, []byte{8, 0}), attr(8, []byte{8, 0}),
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, object(t, tt.object).restorable(tt.told)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestFilterParents(t *testing.T) {
	for name, tt := range map[string]struct {
		objects []string
		want    []uint32
	}{
		"the kernel's root has no handle":                         {nil, []uint32{0}},
		"a root that somebody made":                               {[]string{"qdisc root fq_codel,handle=1:"}, []uint32{0x10000}},
		"classes of htb have filters of their own, drr's not":     {[]string{"qdisc root htb,handle=1:", "class 1:1 htb,parent=root", "class 2:1 drr,parent=2:"}, []uint32{0x10000, 0x10001}},
		"clsact has two places":                                   {[]string{"qdisc ingress clsact,handle=ffff:"}, []uint32{0, 0xfffffff2, 0xfffffff3}},
		"ingress has one":                                         {[]string{"qdisc ingress ingress,handle=ffff:"}, []uint32{0, 0xffff0000}},
		"the filters of a block that is shared are not the one's": {[]string{"qdisc ingress clsact,handle=ffff:,ingress-block=01000000"}, []uint32{0, 0xfffffff3}},
	} {
		t.Run(name, func(t *testing.T) {
			var objects []Object
			for _, o := range tt.objects {
				objects = append(objects, object(t, o))
			}
			if diff := cmp.Diff(tt.want, FilterParents(objects)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// FuzzDecode gives messages of any content to the parser. What it reads has one written
// form, and comes back from a request as it was.
func FuzzDecode(f *testing.F) {
	for kind, m := range []netlink.Message{
		message(unix.RTM_NEWQDISC, device, 0x10000, root, 2, "htb", attr(tcaOptions, attr(htbInit, u32s(0x30011, 10, 3, 0, 77)))),
		message(unix.RTM_NEWTCLASS, device, 0x10001, root, 0, "htb", attr(tcaOptions, attr(htbParms, make([]byte, 44)))),
		message(unix.RTM_NEWTFILTER, device, 0x80000800, 0x10000, 8, "u32", attr(tcaOptions, attr(u32Hash, u32s(0x80000000)))),
		message(unix.RTM_NEWTFILTER, device, 1, 0xfffffff2, 8, "matchall", attr(tcaOptions, attr(2, attr(1, attr(actKind, []byte("police\x00")))))),
	} {
		f.Add(uint8(min(kind, int(Filter))), m.Data)
	}
	f.Fuzz(func(t *testing.T, k uint8, data []byte) {
		kind := Kind(k % 3)
		types := []netlink.HeaderType{unix.RTM_NEWQDISC, unix.RTM_NEWTCLASS, unix.RTM_NEWTFILTER}
		objects, err := Decode(kind, device, []netlink.Message{{Header: netlink.Header{Type: types[kind]}, Data: data}})
		if err != nil {
			return
		}
		Order(objects)
		FilterParents(objects)
		for _, o := range objects {
			m, err := o.Set(device)
			if err != nil {
				t.Fatalf("%+v: %v", o, err)
			}
			if _, err := Decode(kind, device, []netlink.Message{m}); err != nil {
				t.Fatalf("%+v: %v", o, err)
			}
			again, err := Parse(kind, o.Name(), o.Value())
			if err != nil || again.Value() != o.Value() {
				t.Fatalf("%q %q: %v", o.Name(), o.Value(), err)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(uint8(Qdisc), "root", "fq,handle=1:,options=0011")
	f.Add(uint8(Class), "1:10", "htb,parent=1:1,options=00ff")
	f.Add(uint8(Filter), "ffff:fff2/4/49152/0003/1", "matchall,options=")
	f.Fuzz(func(t *testing.T, k uint8, name, value string) {
		o, err := Parse(Kind(k%3), name, value)
		if err != nil {
			return
		}
		if _, err := o.Set(device); err != nil {
			t.Fatalf("%q %q: %v", name, value, err)
		}
	})
}
