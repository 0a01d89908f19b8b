// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package stream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func relayBytes(in []byte, opts Options) ([]byte, *Report, error) {
	var out bytes.Buffer
	rep, err := Relay(&out, bytes.NewReader(in), opts)
	return out.Bytes(), rep, err
}

func TestStreamPassesUnchangedIfNothingIsDropped(t *testing.T) {
	streams := captured(t)
	streams["small"] = small()
	for name, in := range streams {
		out, rep, err := relayBytes(in, Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(in, out) {
			t.Errorf("%s: %d bytes in, %d bytes out, not the same", name, len(in), len(out))
		}
		if rep.Bytes != int64(len(in)) || rep.Forwarded != int64(len(out)) {
			t.Errorf("%s: counted %d and %d bytes, want %d", name, rep.Bytes, rep.Forwarded, len(in))
		}
		if len(rep.Dropped)+len(rep.DroppedRAM)+len(rep.Lines) > 0 {
			t.Errorf("%s: %+v", name, rep)
		}
	}
}

func TestCapturedStreams(t *testing.T) {
	for _, tt := range []struct {
		file    string
		machine string
		drop    []string
		want    []string // sections
		lines   []Line
	}{
		{
			"pc-e1000-asserted", "pc-i440fx-7.2", []string{"0000:00:02.0"},
			[]string{"0000:00:02.0/e1000"},
			[]Line{{"0000:00:02.0", "INTA", 1, []int{10}}},
		}, {
			"q35-e1000-asserted", "pc-q35-7.2", []string{"0000:00:02.0"},
			[]string{"0000:00:02.0/e1000"},
			[]Line{{"0000:00:02.0", "INTA", 6, []int{22, 11}}},
		}, {
			"q35-virtio-express", "pc-q35-7.2", []string{"0000:00:05.0", "0000:00:04.0:00.0"},
			[]string{"0000:00:05.0/virtio-net", "0000:00:04.0:00.0/virtio-net"},
			nil,
		},
	} {
		t.Run(tt.file, func(t *testing.T) {
			in := captured(t)[tt.file]
			var opts Options
			for _, s := range tt.drop {
				p, err := ParsePath(s)
				if err != nil {
					t.Fatal(err)
				}
				opts.Drop = append(opts.Drop, p)
			}
			out, rep, err := relayBytes(in, opts)
			if err != nil {
				t.Fatal(err)
			}
			var dropped []string
			for _, s := range rep.Dropped {
				dropped = append(dropped, s.Name)
			}
			if diff := cmp.Diff(tt.want, dropped, cmp.Transformer("sorted", sorted)); diff != "" {
				t.Errorf("dropped (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.lines, rep.Lines); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
			if rep.Machine != tt.machine || len(rep.Kept) < 25 {
				t.Errorf("machine %q, %d sections kept", rep.Machine, len(rep.Kept))
			}
			// What comes out is a stream, without those devices.
			again, rep2, err := relayBytes(out, Options{})
			if err != nil || !bytes.Equal(out, again) {
				t.Errorf("own output is not relayed unchanged: %v", err)
			} else if diff := cmp.Diff(rep.Kept, rep2.Kept); diff != "" {
				t.Errorf("kept, seen again (-want +got):\n%s", diff)
			}
			_, _, err = relayBytes(out, opts)
			if !errors.Is(err, ErrNoSection) {
				t.Errorf("dropping twice: error %v, want %v", err, ErrNoSection)
			}
		})
	}
}

func sorted(list []string) map[string]bool {
	m := make(map[string]bool)
	for _, s := range list {
		m[s] = true
	}
	return m
}

func TestDroppedDeviceTakesItsRAMBlocksAlong(t *testing.T) {
	out, rep, err := relayBytes(small(), Options{Drop: []Path{slot2}})
	if err != nil {
		t.Fatal(err)
	}
	b := newStream().configuration("pc-test")
	b.ramStart().blocks(blockSize{"pc.ram", 0x4000}).eos()
	b.ramPart(typeSectionPart).zero("pc.ram", 0).page("", 0x1000, 7).eos()
	b.ramPart(typeSectionEnd).page("pc.ram", 0x2000, 9).eos()
	b.device(3, "timer", "timer", 0, fieldOf{name: "ticks", typ: "int64", data: make([]byte, 8)})
	b.device(5, "0000:00:03.0/nic", "nic", 0, pciFields()...)
	if want := b.end(); !bytes.Equal(out, want) {
		t.Errorf("got  %q\nwant %q", out, want)
	}
	if diff := cmp.Diff([]string{"0000:00:02.0/nic.rom"}, rep.DroppedRAM); diff != "" {
		t.Error(diff)
	}
	if rep.Pages != 2 || rep.ZeroPages != 1 {
		t.Errorf("%d pages, %d of zero; want 2 and 1", rep.Pages, rep.ZeroPages)
	}
}

func TestRefusesBeforeDeviceState(t *testing.T) {
	ram := blockSize{"pc.ram", 0x4000}
	start := func() *builder { return newStream().configuration("pc").ramStart() }
	for _, tt := range []struct {
		name string
		in   *builder
		want error
		text string
	}{
		{"wrong magic", (&builder{}).u32(0x16030100).u32(0), ErrMalformed, "byte 4: malformed migration stream: magic 0x16030100"},
		{"wrong version", (&builder{}).u32(magic).u32(2), ErrMalformed, "version 0x2"},
		{"unknown section type", newStream().u8(0x99), ErrMalformed, "byte 8: malformed migration stream: section type 0x99"},
		{"machine type too long", newStream().u8(typeConfiguration).u32(1 << 30), ErrMalformed, "machine type of 1073741824 bytes"},
		{"configuration twice", newStream().configuration("pc").configuration("pc"), ErrMalformed, "not the first section"},
		{"capability that changes the stream", newStream().configuration("pc").u8(typeSubsection).
			name("configuration/capabilities").u32(1).u32(1).name("x-ignore-shared"), ErrUnsupported, "capability x-ignore-shared"},
		{"unknown subsection", newStream().configuration("pc").u8(typeSubsection).
			name("configuration/colour").u32(1), ErrUnsupported, `subsection "configuration/colour"`},
		{"return path", newStream().u8(typeCommand, 0, 1, 0, 0), ErrUnsupported, "return-path"},
		{"postcopy", newStream().u8(typeCommand, 0, 3, 0, 16), ErrUnsupported, "postcopy-ram"},
		{"unknown command", newStream().u8(typeCommand, 9, 9, 0, 0), ErrUnsupported, "command 2313, unknown"},
		{"other iterative section", newStream().u8(typeSectionStart).u32(1).name("dirty-bitmap").u32(0).u32(1),
			ErrUnsupported, `section "dirty-bitmap", byte 26: not supported by the relay: iterative section`},
		{"other version of RAM", newStream().u8(typeSectionStart).u32(1).name("ram").u32(0).u32(9), ErrUnsupported, "version 9"},
		{"part before start", newStream().u8(typeSectionPart).u32(ramID), ErrMalformed, "was not started"},
		{"RAM starts twice", start().blocks(ram).eos().ramStart(), ErrMalformed, "starts twice"},
		{"part of another section", start().blocks(ram).eos().u8(typeSectionPart).u32(77), ErrMalformed, "part of section 77"},
		{"RAM after its end", start().blocks(ram).eos().ramPart(typeSectionEnd).eos().ramPart(typeSectionPart), ErrMalformed, "after its end"},
		{"device state before the end of RAM", start().blocks(ram).eos().u8(typeSectionFull), ErrMalformed, "before the end of RAM"},
		{"blocks announced twice", start().blocks(ram).blocks(ram), ErrMalformed, "RAM blocks announced twice"},
		{"one block announced twice", start().blocks(ram, ram), ErrMalformed, `"pc.ram" announced twice`},
		{"block larger than the total", start().u64(0x1000 | ramFlagMemSize).name("a").u64(0x2000), ErrMalformed, "8192 bytes where 4096 are left"},
		{"block of nothing", start().u64(0x1000 | ramFlagMemSize).name("a").u64(0), ErrMalformed, "0 bytes"},
		{"page of an unknown block", start().blocks(ram).zero("vga.vram", 0), ErrMalformed, `"vga.vram", which was not announced`},
		{"page beyond its block", start().blocks(ram).zero("pc.ram", 0x4000), ErrMalformed, "beyond"},
		{"page that continues nothing", start().blocks(ram).zero("", 0), ErrMalformed, "none was named"},
		{"page before the blocks", start().zero("pc.ram", 0), ErrMalformed, "not announced"},
		{"XBZRLE", start().blocks(ram).pageHeader("pc.ram", 0, ramFlagXBZRLE), ErrUnsupported, "capability xbzrle"},
		{"compress", start().blocks(ram).pageHeader("pc.ram", 0, ramFlagCompressPage), ErrUnsupported, "capability compress"},
		{"multifd", start().blocks(ram).u64(ramFlagMultifdFlush), ErrUnsupported, "capability multifd"},
		{"RDMA", start().blocks(ram).u64(ramFlagHook), ErrUnsupported, "rdma"},
		{"unknown flags", start().blocks(ram).u64(0x800), ErrMalformed, "RAM flags 0x800"},
		{"no flags", start().blocks(ram).u64(0x1000), ErrMalformed, "RAM flags 0x0"},
		{"wrong footer", start().blocks(ram).u64(ramFlagEOS).u8(typeFooter).u32(3), ErrMalformed, "no footer of section 2"},
		{"no footer", start().blocks(ram).u64(ramFlagEOS).u8(0).u32(ramID), ErrMalformed, "no footer of section 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := relayBytes(tt.in.Bytes(), Options{})
			checkError(t, err, tt.want, tt.text)
		})
	}
}

func checkError(t *testing.T, err, want error, text string) {
	t.Helper()
	var e *Error
	if !errors.Is(err, want) || !errors.As(err, &e) {
		t.Fatalf("error %v, want an *Error around %v", err, want)
	}
	if !strings.Contains(err.Error(), text) {
		t.Errorf("error %q does not contain %q", err, text)
	}
}

// toDevices is a stream up to its first device.
func toDevices() *builder {
	b := newStream().configuration("pc").ramStart().blocks(blockSize{"pc.ram", 0x1000}).eos()
	return b.ramPart(typeSectionEnd).eos()
}

func TestRefusesDeviceState(t *testing.T) {
	word := fieldOf{name: "word", typ: "uint32", data: make([]byte, 4)}
	described := func(change func(d map[string]any)) []byte {
		b := toDevices().device(3, "timer", "timer", 0, word)
		change(b.described[0])
		return b.end()
	}
	fields := func(f ...map[string]any) func(map[string]any) {
		return func(d map[string]any) { d["fields"] = f }
	}
	for _, tt := range []struct {
		name string
		in   []byte
		want error
		text string
	}{
		{"field longer than the section", described(fields(map[string]any{"name": "word", "size": 9})),
			ErrMalformed, `section "timer"`},
		{"field shorter than the section", described(fields(map[string]any{"name": "word", "size": 3})),
			ErrMalformed, "3 bytes of data as described do not end in the section's footer"},
		{"array of absurd length", described(fields(map[string]any{"name": "word", "size": 1 << 40, "array_len": uint64(1) << 60})),
			ErrMalformed, `field "word"`},
		{"size and length whose product overflows", described(fields(map[string]any{"name": "word", "size": uint64(1) << 62, "array_len": 4})),
			ErrMalformed, `field "word"`},
		{"struct of another size than its fields", described(fields(map[string]any{"name": "s", "size": 4,
			"struct": map[string]any{"fields": []any{map[string]any{"name": "half", "size": 2}}}})),
			ErrMalformed, `struct "s" is 4 bytes, its fields 2`},
		{"subsection that is not there", described(func(d map[string]any) {
			d["subsections"] = []any{map[string]any{"vmsd_name": "timer/more", "version": 1}}
		}), ErrMalformed, `no subsection "timer/more"`},
		{"section under another name", described(func(d map[string]any) { d["name"] = "timber" }),
			ErrMalformed, `section "timer" instance 0, described as "timber"`},
		{"section of another instance", described(func(d map[string]any) { d["instance_id"] = 4 }),
			ErrMalformed, "instance 4"},
		{"section without description", func() []byte {
			b := toDevices().device(3, "timer", "timer", 0, word).device(4, "more", "more", 0, word)
			b.described = b.described[:1]
			return b.end()
		}(), ErrMalformed, "the description has no more devices"},
		{"description without section", func() []byte {
			long := fieldOf{name: "long", typ: "buffer", data: make([]byte, 64)}
			b := toDevices().device(3, "timer", "timer", 0, long)
			b.described = append(b.described, map[string]any{"name": "ghost"})
			return b.end()
		}(), ErrMalformed, `"ghost" is described but not there`},
		{"description of more devices than fit", func() []byte {
			b := toDevices().device(3, "timer", "timer", 0, word)
			b.described = append(b.described, make([]map[string]any, 9)...)
			return b.end()
		}(), ErrMalformed, "10 devices, at most"},
		{"another section type between devices", func() []byte {
			b := toDevices().device(3, "timer", "timer", 0, word)
			b.u8(typeSectionPart)
			b.described = append(b.described, map[string]any{"name": "x"})
			b.Write(make([]byte, minSection))
			return b.end()
		}(), ErrMalformed, "section type 0x02 where a device was expected"},
		{"no description", toDevices().device(3, "timer", "timer", 0, word).u8(typeEOF).Bytes(),
			ErrMalformed, "no description"},
		{"bytes behind the description", append(described(func(map[string]any) {}), 0),
			ErrMalformed, "no description"},
		{"description that is no JSON", toDevices().u8(typeEOF, typeVMDescription).u32(4).u8('{', '"', 'a', '}').Bytes(),
			ErrMalformed, `section "description"`},
		{"description without devices", toDevices().u8(typeEOF, typeVMDescription).u32(2).u8('{', '}').Bytes(),
			ErrMalformed, `section "description"`},
		{"device to be dropped is not there", toDevices().end(), ErrNoSection, `section "0000:00:02.0"`},
		{"dropped device whose pins are not known", toDevices().device(3, "0000:00:02.0/odd", "odd", 0, word).end(),
			ErrInterrupt, "no known PCI device"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opts := Options{}
			if tt.want == ErrNoSection || tt.want == ErrInterrupt {
				opts.Drop = []Path{slot2}
			}
			out, _, err := relayBytes(tt.in, opts)
			checkError(t, err, tt.want, tt.text)
			if want := toDevices().Bytes(); !bytes.Equal(out, want) {
				t.Errorf("%d bytes were forwarded, want the %d before device state", len(out), len(want))
			}
		})
	}
}

// However a stream breaks off, the destination must not see its end.
func TestTruncatedAtEveryByte(t *testing.T) {
	in := small()
	whole, _, err := relayBytes(in, Options{Drop: []Path{slot2}})
	if err != nil {
		t.Fatal(err)
	}
	mark := bytes.LastIndex(whole, []byte{typeFooter, 0, 0, 0, 5, typeEOF, typeVMDescription}) + 5
	for n := range in {
		out, _, err := relayBytes(in[:n], Options{Drop: []Path{slot2}})
		if !errors.Is(err, ErrTruncated) && !errors.Is(err, ErrMalformed) {
			t.Fatalf("cut at %d: error %v", n, err)
		}
		if len(out) > mark || !bytes.HasPrefix(whole, out) {
			t.Fatalf("cut at %d: forwarded %d bytes, the end mark is at %d", n, len(out), mark)
		}
	}
	for name, in := range captured(t) {
		for n := 0; n < len(in); n += 4093 {
			if _, _, err := relayBytes(in[:n], Options{}); err == nil {
				t.Errorf("%s cut at %d was accepted", name, n)
			}
		}
	}
}

// endless is a source that never stops sending device state.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	clear(p)
	e.read += len(p)
	return len(p), nil
}

func TestDeviceStateIsBounded(t *testing.T) {
	src := &endless{}
	_, err := Relay(io.Discard, io.MultiReader(bytes.NewReader(toDevices().Bytes()), src), Options{MaxDeviceState: 1 << 20})
	checkError(t, err, ErrTooLarge, "1048576")
	if src.read > 2<<20 {
		t.Errorf("read %d bytes of a source that may send 1 MiB", src.read)
	}
}

// brokenPipe takes n bytes.
type brokenPipe struct{ n int }

var errBroken = errors.New("the other end is gone")

func (w *brokenPipe) Write(p []byte) (int, error) {
	if len(p) > w.n {
		return 0, errBroken
	}
	w.n -= len(p)
	return len(p), nil
}

func TestDestinationFails(t *testing.T) {
	in := small()
	for _, tt := range []struct {
		name    string
		takes   int
		endMark bool
	}{
		{"while RAM is sent", 100, false},
		{"while device state is sent", len(toDevices().Bytes()) + 2*pageSize + 100, false},
		{"at the end mark", len(in) - 400, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Relay(&brokenPipe{tt.takes}, bytes.NewReader(in), Options{})
			if !errors.Is(err, ErrForward) || !errors.Is(err, errBroken) || errors.Is(err, ErrEndMark) != tt.endMark {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestCommit(t *testing.T) {
	in := small()
	errNo := errors.New("the source runs on")
	var out bytes.Buffer
	seen := -1
	_, err := Relay(&out, bytes.NewReader(in), Options{Commit: func() error {
		seen = out.Len()
		return errNo
	}})
	if err != errNo {
		t.Errorf("error %v, want %v", err, errNo)
	}
	mark := bytes.LastIndex(in, []byte{typeEOF, typeVMDescription})
	if seen != mark || out.Len() != mark {
		t.Errorf("at Commit %d bytes were out, in the end %d; the end mark is at %d", seen, out.Len(), mark)
	}
}

func TestCallbacks(t *testing.T) {
	var calls []string
	_, _, err := relayBytes(small(), Options{
		Progress:    func(s Stats) { calls = append(calls, fmt.Sprintf("ram %d+%d", s.Pages, s.ZeroPages)) },
		DeviceState: func() { calls = append(calls, "state") },
		Commit:      func() error { calls = append(calls, "commit"); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"ram 0+0", "ram 1+1", "ram 3+1", "state", "commit"}
	if diff := cmp.Diff(want, calls); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPath(t *testing.T) {
	for _, s := range []string{"0000:00:02.0", "0000:00:1f.7", "0000:00:03.0:00.0", "0001:80:00.0:01.2:1f.0"} {
		if p, err := ParsePath(s); err != nil || p.String() != s {
			t.Errorf("ParsePath(%q) = %v, %v", s, p, err)
		}
	}
	for _, s := range []string{"", "00:02.0", "0000:00", "0000:00:2.0", "0000:00:20.0", "0000:00:02.8", "0000:00:02.0/e1000", "0000:00:02.0:", "000:00:02.0", "0000:00:0G.0", "0000:00: 2.0"} {
		if p, err := ParsePath(s); err == nil {
			t.Errorf("ParsePath(%q) = %v, want an error", s, p)
		}
	}
	if slot2.owns("0000:00:02.0:00.0/e1000") || slot2.owns("0000:00:02.1/e1000") || !slot2.owns("0000:00:02.0/e1000") {
		t.Error("a device owns what starts with its path and a slash, nothing else")
	}
}
