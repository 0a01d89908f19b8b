// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package oplog

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestOpText(t *testing.T) {
	tests := []struct {
		name string
		op   Op
		text string
	}{
		{"a plain value is bare", Set("net.mtu", "9000"), `net.mtu=9000`},
		{"an empty value is bare", Set("net.alias", ""), `net.alias=`},
		{"an equals sign in a value is bare", Set("net.alias", "a=b"), `net.alias=a=b`},
		{"a member has a plus", Add("net.vlan", "100"), `net.vlan+=100`},
		{"a removal has a minus", Remove("net.vlan", "100"), `net.vlan-=100`},
		{"forgetting is removing nothing in particular", Forget("net.mtu"), `net.mtu-=`},
		{"a space is quoted", Set("net.alias", "up link"), `net.alias="up link"`},
		{"a newline is escaped", Set("net.alias", "a\nb"), `net.alias="a\nb"`},
		{"a quote is escaped", Set("net.alias", `"`), `net.alias="\""`},
		{"bytes that are no text survive", Set("net.alias", "\xff\x00"), `net.alias="\xff\x00"`},
		{"other than ASCII is escaped", Set("net.alias", "é"), `net.alias="\u00e9"`},
		{"a key may hold a path", Set("char.sysfs.power/control", "on"), `char.sysfs.power/control=on`},
		{"a minus inside a key is no operator", Set("net.feature.rx-all", "on"), `net.feature.rx-all=on`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.op.Validate(); err != nil {
				t.Fatal(err)
			}
			if got := tt.op.String(); got != tt.text {
				t.Errorf("String() = %s, want %s", got, tt.text)
			}
			got, err := Parse(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			if got != tt.op {
				t.Errorf("Parse(%s) = %#v, want %#v", tt.text, got, tt.op)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	tests := map[string]string{
		"no equals sign":                   `net.mtu`,
		"no class":                         `mtu=1`,
		"an empty class":                   `.mtu=1`,
		"an empty name":                    `net.=1`,
		"a space in a key":                 `net.m tu=1`,
		"two operators":                    `net.vlan-+=1`,
		"a plus inside a key":              `net.v+lan=1`,
		"an empty member":                  `net.vlan+=`,
		"a bare value that must be quoted": "net.alias=a\tb",
		"text after a value":               `net.mtu=1 2`,
		"a quote that does not end":        `net.alias="a b`,
		"a quoted value that may be bare":  `net.mtu="1500"`,
		"another spelling of an escape":    `net.alias="\x20"`,
		"a raw string":                     "net.alias=`a b`",
		"a key over the bound":             "net." + strings.Repeat("a", MaxKey) + "=1",
		"a value over the bound":           "net.a=" + strings.Repeat("a", MaxValue+1),
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			if op, err := Parse(text); !errors.Is(err, ErrBadOp) {
				t.Errorf("Parse = %v, %v; want ErrBadOp", op, err)
			}
		})
	}
}

func TestOpParts(t *testing.T) {
	op := Add("net.feature.rx-all", "on")
	if op.Class() != "net" || op.Name() != "feature.rx-all" || op.Base() != "net.feature.rx-all" || !op.IsMember() || op.IsRemoval() {
		t.Errorf("parts of %v: class %q, name %q, base %q", op, op.Class(), op.Name(), op.Base())
	}
}

func TestLogApply(t *testing.T) {
	tests := []struct {
		name string
		ops  []Op
		want []string
	}{
		{"the newest value of a key wins",
			[]Op{Set("net.mtu", "1500"), Set("net.mtu", "9000")}, []string{"net.mtu=9000"}},
		{"members are kept side by side",
			[]Op{Add("net.vlan", "2"), Add("net.vlan", "1")}, []string{"net.vlan+=1", "net.vlan+=2"}},
		{"a member is held once",
			[]Op{Add("net.vlan", "2"), Add("net.vlan", "2")}, []string{"net.vlan+=2"}},
		{"a removed member is gone",
			[]Op{Add("net.vlan", "1"), Add("net.vlan", "2"), Remove("net.vlan", "1")}, []string{"net.vlan+=2"}},
		{"a set without members is gone",
			[]Op{Add("net.vlan", "1"), Remove("net.vlan", "1")}, []string{}},
		{"a forgotten key is gone with its members",
			[]Op{Add("net.vlan", "1"), Add("net.vlan", "2"), Set("net.mtu", "1"), Forget("net.vlan")}, []string{"net.mtu=1"}},
		{"a value replaces a set",
			[]Op{Add("net.x", "1"), Add("net.x", "2"), Set("net.x", "3")}, []string{"net.x=3"}},
		{"a set replaces a value",
			[]Op{Set("net.x", "3"), Add("net.x", "1")}, []string{"net.x+=1"}},
		{"removing what is not there changes nothing",
			[]Op{Set("net.x", "3"), Remove("net.x", "3"), Remove("net.y", "1"), Forget("net.z")}, []string{"net.x=3"}},
		{"a snapshot is sorted by key before member",
			[]Op{Set("net.b", "1"), Add("net.a", "9"), Set("net.a.c", "1")}, []string{"net.a+=9", "net.a.c=1", "net.b=1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := Replay(tt.ops...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, lines(l.Snapshot())); diff != "" {
				t.Errorf("snapshot (-want +got):\n%s", diff)
			}
			if l.Len() != len(tt.want) {
				t.Errorf("Len() = %d, want %d", l.Len(), len(tt.want))
			}
		})
	}
	if _, err := Replay(Op{"mtu", "1"}); !errors.Is(err, ErrBadOp) {
		t.Errorf("Replay of a bad operation: %v, want ErrBadOp", err)
	}
}

func TestLogDefer(t *testing.T) {
	ring, vlan := Set("net.ring.rx", "512"), Add("net.vlan", "100")
	l, err := Replay(ring, vlan, Set("net.mtu", "9000"))
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range []Op{ring, vlan} {
		if !l.Defer(op, "cannot") {
			t.Errorf("Defer(%v) = false", op)
		}
	}
	for _, op := range []Op{Set("net.ring.rx", "511"), Add("net.vlan", "1"), Set("net.vlan", "100"), Remove("net.vlan", "100"), Set("net.no", "1")} {
		if l.Defer(op, "cannot") {
			t.Errorf("Defer(%v), which the log does not hold, = true", op)
		}
	}
	want := []Entry{{ring, "cannot"}, {vlan, "cannot"}}
	if diff := cmp.Diff(want, l.Deferred()); diff != "" {
		t.Errorf("Deferred() (-want +got):\n%s", diff)
	}

	c := l.Clone()
	for _, op := range []Op{ring, vlan} {
		if changed, _ := l.Apply(op); changed {
			t.Errorf("%v again changed the log", op)
		}
	}
	if diff := cmp.Diff(want, l.Deferred()); diff != "" {
		t.Errorf("the same operation again took the mark (-want +got):\n%s", diff)
	}
	if _, err := l.Apply(Set("net.ring.rx", "256")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want[1:], l.Deferred()); diff != "" {
		t.Errorf("another value kept the mark (-want +got):\n%s", diff)
	}
	l.ClearDeferred()
	if d := l.Deferred(); len(d) != 0 {
		t.Errorf("after ClearDeferred: %v", d)
	}
	if diff := cmp.Diff(want, c.Deferred()); diff != "" {
		t.Errorf("the clone changed with its original (-want +got):\n%s", diff)
	}
}

func TestLogText(t *testing.T) {
	l, err := Replay(Add("net.vlan", "100"), Set("net.ring.rx", "512"), Set("net.mtu", "9000"), Set("net.alias", ` ! "x"`))
	if err != nil {
		t.Fatal(err)
	}
	l.Defer(Set("net.ring.rx", "512"), `the device has "none"`)
	l.Defer(Set("net.alias", ` ! "x"`), "-")
	text, err := l.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	want := "umbra-log 1\n" +
		`net.alias=" ! \"x\"" ! "-"` + "\n" +
		"net.mtu=9000\n" +
		`net.ring.rx=512 ! "the device has \"none\""` + "\n" +
		"net.vlan+=100\n" +
		"crc32c fb5c1a85\n"
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
	var back Log
	if err := back.UnmarshalText(text); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(l.Entries(), back.Entries()); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
}

// Every change of one byte and every cut must be noticed, and must leave the
// log that was there.
func TestLogTextRefusesDamage(t *testing.T) {
	l, _ := Replay(Set("net.mtu", "9000"), Add("net.vlan", "100"))
	text, _ := l.MarshalText()
	for i := range text {
		for _, bit := range []byte{1, 0x20, 0x80} {
			damaged := bytes.Clone(text)
			damaged[i] ^= bit
			if err := l.UnmarshalText(damaged); !errors.Is(err, ErrCorrupt) {
				t.Errorf("bit %#x of byte %d flipped: %v, want ErrCorrupt", bit, i, err)
			}
		}
		if err := l.UnmarshalText(text[:i]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut to %d bytes: %v, want ErrCorrupt", i, err)
		}
	}
	if got := lines(l.Snapshot()); len(got) != 2 {
		t.Errorf("a refused text changed the log: %v", got)
	}
}

func TestDiff(t *testing.T) {
	tests := []struct {
		name     string
		old, new []Op
		want     []string
	}{
		{"the same state is no difference", []Op{Set("net.a", "1")}, []Op{Set("net.a", "0"), Set("net.a", "1")}, nil},
		{"a changed value is set", []Op{Set("net.a", "1")}, []Op{Set("net.a", "2")}, []string{"net.a=2"}},
		{"a key that is gone is forgotten", []Op{Set("net.a", "1"), Add("net.b", "1")}, nil, []string{"net.a-=", "net.b-="}},
		{"members come and go one by one", []Op{Add("net.v", "1"), Add("net.v", "2")}, []Op{Add("net.v", "2"), Add("net.v", "3")}, []string{"net.v-=1", "net.v+=3"}},
		{"a set that becomes a value is replaced", []Op{Add("net.v", "1")}, []Op{Set("net.v", "1")}, []string{"net.v=1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Diff(tt.old, tt.new)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, lines(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func lines(ops []Op) []string {
	if ops == nil {
		return nil
	}
	s := make([]string, 0, len(ops))
	for _, op := range ops {
		s = append(s, op.String())
	}
	return s
}

// genOps draws histories over few keys, so that operations meet.
func genOps() *rapid.Generator[[]Op] {
	key := rapid.SampledFrom([]string{"net.mtu", "net.vlan", "net.ring.rx", "block.queue.scheduler"})
	value := rapid.OneOf(rapid.SampledFrom([]string{"1", "2", "3"}), rapid.StringN(1, 8, 16))
	op := rapid.Custom(func(t *rapid.T) Op {
		k, v := key.Draw(t, "key"), value.Draw(t, "value")
		switch rapid.IntRange(0, 7).Draw(t, "operator") {
		case 0, 1, 2:
			return Set(k, v)
		case 3, 4, 5:
			return Add(k, v)
		case 6:
			return Remove(k, v)
		default:
			return Forget(k)
		}
	})
	return rapid.SliceOfN(op, 0, 60)
}

// model is a log as slow as its definition: the whole history, asked anew.
func model(history []Op) []string {
	state := map[string]map[string]Op{}
	for _, op := range history {
		base, operator := op.split()
		switch {
		case operator == '=':
			state[base] = map[string]Op{"": op}
		case operator == '+':
			if m := state[base]; m == nil || !slices.Collect(maps.Values(m))[0].IsMember() {
				state[base] = map[string]Op{}
			}
			state[base][op.Value] = op
		case op.Value == "":
			delete(state, base)
		default:
			if m := state[base]; m != nil && m[op.Value].IsMember() {
				delete(m, op.Value)
				if len(m) == 0 {
					delete(state, base)
				}
			}
		}
	}
	var out []string
	for _, base := range slices.Sorted(maps.Keys(state)) {
		for _, m := range slices.Sorted(maps.Keys(state[base])) {
			out = append(out, state[base][m].String())
		}
	}
	return out
}

func TestPropertyReplayMatchesModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		history := genOps().Draw(t, "history")
		l, err := Replay(history...)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(model(history), append([]string(nil), lines(l.Snapshot())...)); diff != "" {
			t.Fatalf("(-model +log):\n%s", diff)
		}
		if l.Len() != len(l.Snapshot()) {
			t.Fatalf("Len() = %d, snapshot has %d", l.Len(), len(l.Snapshot()))
		}
	})
}

func TestPropertyCompact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		history, future := genOps().Draw(t, "history"), genOps().Draw(t, "future")
		compact, err := Compact(history...)
		if err != nil {
			t.Fatal(err)
		}
		a, _ := Replay(append(slices.Clone(history), future...)...)
		b, _ := Replay(append(slices.Clone(compact), future...)...)
		if diff := cmp.Diff(lines(a.Snapshot()), lines(b.Snapshot())); diff != "" {
			t.Fatalf("a compacted log has another future (-log +compact):\n%s", diff)
		}
		again, _ := Compact(slices.Repeat(history, 3)...)
		if len(again) > len(history) {
			t.Fatalf("%d operations told thrice leave %d", len(history), len(again))
		}
	})
}

func TestPropertyDiff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old, new := genOps().Draw(t, "old"), genOps().Draw(t, "new")
		diff, err := Diff(old, new)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := Replay(append(slices.Clone(old), diff...)...)
		want, _ := Replay(new...)
		if d := cmp.Diff(lines(want.Snapshot()), lines(got.Snapshot())); d != "" {
			t.Fatalf("old+Diff(old,new) is not new (-want +got):\n%s", d)
		}
	})
}

func TestPropertyText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, err := Replay(genOps().Draw(t, "history")...)
		if err != nil {
			t.Fatal(err)
		}
		for _, op := range l.Snapshot() {
			l.Defer(op, rapid.String().Draw(t, "reason"))
		}
		text, _ := l.MarshalText()
		var back Log
		if err := back.UnmarshalText(text); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if d := cmp.Diff(l.Entries(), back.Entries()); d != "" {
			t.Fatalf("(-want +got):\n%s", d)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"net.mtu=9000", "net.vlan+=100", "net.vlan-=", `net.alias="a\xff"`, "=", "net.a=\"", "net.a=a b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		op, err := Parse(s)
		if err != nil {
			if !errors.Is(err, ErrBadOp) {
				t.Fatalf("Parse(%q): %v is not ErrBadOp", s, err)
			}
			return
		}
		if op.String() != s {
			t.Fatalf("%q reads as %q", s, op)
		}
	})
}

func FuzzLogUnmarshalText(f *testing.F) {
	l, _ := Replay(Set("net.mtu", "9000"), Add("net.vlan", "1"), Set("net.alias", "a b"))
	l.Defer(Set("net.mtu", "9000"), "no")
	text, _ := l.MarshalText()
	body := string(text[len(header) : len(text)-crcLine])
	f.Add(body)
	f.Add("")
	f.Add("net.b=1\nnet.a=1\n")
	f.Add("net.a-=1\n")
	f.Add("net.a=1 ! \"\"\n")
	// The checksum is put on by the target, or no mutation would get past it.
	f.Fuzz(func(t *testing.T, body string) {
		text := []byte(header + body)
		text = append(text, sum(text)...)
		var l Log
		if err := l.UnmarshalText(text); err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%v is not ErrCorrupt", err)
			}
			return
		}
		back, _ := l.MarshalText()
		if !bytes.Equal(back, text) {
			t.Fatalf("%q was accepted and reads as %q", text, back)
		}
	})
}

func ExampleLog() {
	var l Log
	for _, op := range []Op{
		Set("net.mtu", "1500"), Add("net.vlan", "100"), Add("net.vlan", "200"),
		Set("net.mtu", "9000"), Remove("net.vlan", "100"),
	} {
		if _, err := l.Apply(op); err != nil {
			fmt.Println(err)
		}
	}
	for _, op := range l.Snapshot() {
		fmt.Println(op)
	}
	// Output:
	// net.mtu=9000
	// net.vlan+=200
}
