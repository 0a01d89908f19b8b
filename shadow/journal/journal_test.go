// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/umbra-vm/umbra/shadow/ctl"
	"github.com/umbra-vm/umbra/shadow/oplog"
)

// A step is one record of a history.
type step struct {
	name string
	do   func(*Journal) error
}

func op(o oplog.Op) step {
	return step{o.String(), func(j *Journal) error { return j.Op(o) }}
}

func timeline(n uint64, stamps ...string) ctl.Timeline {
	t := ctl.Timeline{Recovery: n, Role: "net0", Cause: ctl.CauseMigration, Started: int64(n) * 1e9}
	for i, s := range stamps {
		t.Stamps = append(t.Stamps, ctl.Stamp{Name: s, At: int64(i) * 1e6})
	}
	return t
}

// history is one life of a role: every kind of record, with enough that goes
// out of date to be compacted on the way.
func history() []step {
	steps := []step{
		op(oplog.Set("net.mtu", "1500")),
		op(oplog.Add("net.vlan", "100")),
		{"fact device", func(j *Journal) error { return j.Fact("device", map[string]string{"address": "0000:00:02.0"}) }},
		op(oplog.Set("net.alias", "\xff up \n")),
		{"defer vlan", func(j *Journal) error { return j.Defer(oplog.Add("net.vlan", "100"), "has no filter") }},
	}
	for n := range uint64(3) {
		var reached []string
		for _, s := range []string{ctl.StampResumed, ctl.StampDetected, ctl.StampProbed} {
			reached = append(reached, s)
			t := timeline(n+1, reached...)
			steps = append(steps, step{"progress " + s, func(j *Journal) error { return j.Progress(t) }})
		}
		done := timeline(n+1, append(reached, ctl.StampPassive)...)
		steps = append(steps, step{"done", func(j *Journal) error { return j.Done(done) }})
		mtu := oplog.Set("net.mtu", fmt.Sprint(1500+n))
		steps = append(steps, op(mtu))
	}
	late := timeline(3, ctl.StampResumed, ctl.StampPassive, ctl.StampUnloaded)
	return append(steps,
		op(oplog.Forget("net.alias")),
		step{"forget device", func(j *Journal) error { return j.Fact("device", nil) }},
		step{"progress 4", func(j *Journal) error { return j.Progress(timeline(4, ctl.StampDetected)) }},
		step{"done 3 again", func(j *Journal) error { return j.Done(late) }},
	)
}

// say is what a state says, as bytes that are equal for equal states.
func say(t testing.TB, s State) string {
	t.Helper()
	b, _, err := s.encode()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// states returns what the journal says before the first and after every step.
func states(t testing.TB, steps []step) []string {
	t.Helper()
	j, s, err := Open("/run/umbra", "net0", WithFS(newMemFS()))
	if err != nil {
		t.Fatal(err)
	}
	out := []string{say(t, s)}
	for _, st := range steps {
		if err := st.do(j); err != nil {
			t.Fatalf("%s: %v", st.name, err)
		}
		out = append(out, say(t, j.State()))
	}
	return out
}

func TestOpenGivesBackWhatWasRecorded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "umbra")
	j, s, err := Open(dir, "net0")
	if err != nil {
		t.Fatal(err)
	}
	if s.Log.Len() != 0 || s.Recovery != nil || len(s.Timelines) != 0 || len(s.Facts()) != 0 {
		t.Errorf("a new journal says %+v", s)
	}
	ring := oplog.Set("net.ring.rx", "512")
	under := timeline(2, ctl.StampResumed, ctl.StampDetected)
	for _, err := range []error{
		j.Op(oplog.Set("net.mtu", "1500")),
		j.Op(oplog.Set("net.mtu", "9000")),
		j.Op(ring),
		j.Defer(ring, "the device has none"),
		j.Fact("proxy", 7),
		j.Progress(timeline(1, ctl.StampResumed)),
		j.Done(timeline(1, ctl.StampResumed, ctl.StampPassive)),
		j.Progress(under),
		j.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Op(ring); !errors.Is(err, ErrClosed) {
		t.Errorf("recording after Close: %v, want ErrClosed", err)
	}

	j, s, err = Open(dir, "net0")
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	want := []oplog.Entry{{Op: oplog.Set("net.mtu", "9000")}, {Op: ring, Deferred: "the device has none"}}
	if diff := cmp.Diff(want, s.Log.Entries()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(&under, s.Recovery); diff != "" {
		t.Errorf("recovery under way (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]ctl.Timeline{timeline(1, ctl.StampResumed, ctl.StampPassive)}, s.Timelines); diff != "" {
		t.Errorf("timelines (-want +got):\n%s", diff)
	}
	var ifindex int
	if ok, err := s.Fact("proxy", &ifindex); !ok || err != nil || ifindex != 7 {
		t.Errorf("fact proxy = %d, %t, %v", ifindex, ok, err)
	}
	if ok, err := s.Fact("none", &ifindex); ok || err != nil {
		t.Errorf("fact that was never recorded: %t, %v", ok, err)
	}
}

func TestRecoveryUnderWay(t *testing.T) {
	tests := []struct {
		name  string
		steps func(*Journal) []error
		want  *ctl.Timeline
		done  []uint64
	}{
		{"done ends the recovery under way", func(j *Journal) []error {
			return []error{j.Progress(timeline(1)), j.Done(timeline(1))}
		}, nil, []uint64{1}},
		{"a late word on an earlier recovery ends no later one", func(j *Journal) []error {
			return []error{j.Done(timeline(1)), j.Progress(timeline(2)), j.Done(timeline(1, ctl.StampUnloaded))}
		}, ptr(timeline(2)), []uint64{1}},
		{"the same number at another time is another recovery", func(j *Journal) []error {
			other := timeline(1)
			other.Started = 5
			return []error{j.Done(timeline(1)), j.Done(other)}
		}, nil, []uint64{1, 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			j, _, err := Open("/d", "net0", WithFS(newMemFS()))
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(tt.steps(j)...); err != nil {
				t.Fatal(err)
			}
			s := j.State()
			if diff := cmp.Diff(tt.want, s.Recovery); diff != "" {
				t.Errorf("recovery (-want +got):\n%s", diff)
			}
			var done []uint64
			for _, tl := range s.Timelines {
				done = append(done, tl.Recovery)
			}
			if diff := cmp.Diff(tt.done, done); diff != "" {
				t.Errorf("timelines (-want +got):\n%s", diff)
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }

func TestKeepsTheLastTimelines(t *testing.T) {
	j, _, err := Open("/d", "net0", WithFS(newMemFS()))
	if err != nil {
		t.Fatal(err)
	}
	for n := range uint64(KeepTimelines + 5) {
		if err := j.Done(timeline(n)); err != nil {
			t.Fatal(err)
		}
	}
	got := j.State().Timelines
	if len(got) != KeepTimelines || got[0].Recovery != 5 || got[KeepTimelines-1].Recovery != KeepTimelines+4 {
		t.Errorf("%d timelines, from %d to %d", len(got), got[0].Recovery, got[len(got)-1].Recovery)
	}
}

func TestStateIsTheCallersOwn(t *testing.T) {
	j, _, err := Open("/d", "net0", WithFS(newMemFS()))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(j.Op(oplog.Set("net.mtu", "1")), j.Progress(timeline(1, "a")), j.Done(timeline(2, "a"))); err != nil {
		t.Fatal(err)
	}
	before := say(t, j.State())
	s := j.State()
	s.Log.Apply(oplog.Set("net.mtu", "2"))
	s.Recovery.Stamps[0].Name = "b"
	s.Timelines[0].Stamps[0].Name = "b"
	if say(t, j.State()) != before {
		t.Error("changing a state changed the journal")
	}
}

func TestRefusesWhatItCouldNotGiveBack(t *testing.T) {
	mem := newMemFS()
	j, _, err := Open("/d", "net0", WithFS(mem))
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Op(oplog.Op{Key: "mtu", Value: "1"}); !errors.Is(err, oplog.ErrBadOp) {
		t.Errorf("a bad operation: %v, want ErrBadOp", err)
	}
	if err := j.Fact("big", strings.Repeat("x", maxPayload)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a fact over the bound: %v, want ErrTooLarge", err)
	}
	if err := j.Fact("f", func() {}); err == nil {
		t.Error("a fact that JSON cannot say was recorded")
	}
	if _, s, err := Open("/d", "net0", WithFS(mem)); err != nil || say(t, s) != fileMagic {
		t.Errorf("refused records left %+v, %v", s, err)
	}
	for _, role := range []string{"", "..", ".hidden", "a/b", "a\x00"} {
		if _, _, err := Open(t.TempDir(), role); err == nil {
			t.Errorf("role %q was opened", role)
		}
	}
}

// The file cut at every length opens to the records that are whole in it, and
// goes on from there.
func TestCutAtEveryLength(t *testing.T) {
	steps := history()
	want := states(t, steps)
	mem := newMemFS()
	j, _, err := Open("/d", "net0", WithFS(mem))
	if err != nil {
		t.Fatal(err)
	}
	path := Path("/d", "net0")
	ends := []int{len(fileMagic)} // of the file after n steps
	for _, st := range steps {
		if err := st.do(j); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, len(mem.files[path].data))
	}
	whole := mem.files[path].data
	for n := range len(whole) + 1 {
		mem := newMemFS()
		mem.files[path] = &memNode{slices.Clone(whole[:n])}
		j, s, err := Open("/d", "net0", WithFS(mem))
		if err != nil {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
		full, found := slices.BinarySearch(ends, n)
		if !found {
			full = max(full-1, 0)
		}
		if say(t, s) != want[full] {
			t.Errorf("cut to %d bytes: not the state after %d steps", n, full)
		}
		torn := n - ends[full]
		if n < ends[0] {
			torn = n
		}
		if s.Torn != torn {
			t.Errorf("cut to %d bytes: %d torn, want %d", n, s.Torn, torn)
		}
		if err := j.Op(oplog.Set("net.after", "1")); err != nil {
			t.Fatalf("cut to %d bytes: going on: %v", n, err)
		}
		if _, again, err := Open("/d", "net0", WithFS(mem)); err != nil || say(t, again) != say(t, j.State()) || again.Torn != 0 {
			t.Fatalf("cut to %d bytes: opened again: %v, %d torn", n, err, again.Torn)
		}
	}
}

// A process killed at any step, in the middle of a write or of a compaction,
// leaves what it had recorded, or one record more.
func TestKilledAtEveryStep(t *testing.T) {
	steps := history()
	want := states(t, steps)
	for _, min := range []int64{1, 1 << 20} {
		t.Run(fmt.Sprintf("compacting from %d bytes", min), func(t *testing.T) {
			for kill := 1; ; kill++ {
				mem := newMemFS()
				mem.dieAt(kill)
				recorded, finished := 0, false
				if j, _, err := Open("/d", "net0", WithFS(mem), WithCompaction(min)); err == nil {
					for _, st := range steps {
						if st.do(j) != nil {
							break
						}
						recorded++
					}
					finished = recorded == len(steps) && mem.step < kill
				}
				_, s, err := Open("/d", "net0", WithFS(mem.revive()))
				if err != nil {
					t.Fatalf("killed at step %d: %v", kill, err)
				}
				got := say(t, s)
				if got != want[recorded] && (recorded == len(steps) || got != want[recorded+1]) {
					t.Fatalf("killed at step %d after %d records: neither the state then nor the next", kill, recorded)
				}
				if finished {
					t.Logf("killed at each of %d steps", kill-1)
					return
				}
			}
		})
	}
}

// After any one failed write, sync, truncate or rename the journal goes on,
// and says all that was recorded without an error.
func TestGoesOnAfterAnyError(t *testing.T) {
	steps := history()
	for fail := 1; ; fail++ {
		mem := newMemFS()
		mem.failAt(fail)
		j, _, err := Open("/d", "net0", WithFS(mem), WithCompaction(1))
		if err != nil {
			if j, _, err = Open("/d", "net0", WithFS(mem), WithCompaction(1)); err != nil {
				t.Fatalf("step %d failed once: second Open: %v", fail, err)
			}
		}
		for i, st := range steps {
			before, first := j.State(), mem.step < fail
			if err := st.do(j); err != nil {
				if say(t, j.State()) != say(t, before) {
					t.Fatalf("step %d failed: %s changed the state", fail, st.name)
				}
				if err := st.do(j); err != nil {
					t.Fatalf("step %d failed once: %s again: %v", fail, st.name, err)
				}
			}
			if hit := first && mem.step >= fail; !hit && i < len(steps)-1 {
				continue
			}
			_, s, err := Open("/d", "net0", WithFS(mem.revive()))
			if err != nil || say(t, s) != say(t, j.State()) {
				t.Fatalf("step %d failed: after %s the file does not say what the journal says: %v", fail, st.name, err)
			}
		}
		if mem.step < fail {
			return
		}
	}
}

// Every damage of a byte is refused, or looks like a torn last record.
func TestDamageOfEveryByte(t *testing.T) {
	steps := history()
	want := states(t, steps)
	mem := newMemFS()
	j, _, err := Open("/d", "net0", WithFS(mem), WithCompaction(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	path := Path("/d", "net0")
	last := 0
	for _, st := range steps {
		last = len(mem.files[path].data)
		if err := st.do(j); err != nil {
			t.Fatal(err)
		}
	}
	whole := mem.files[path].data
	for i := range whole {
		for _, bit := range []byte{1, 0x10, 0x80} {
			mem := newMemFS()
			data := slices.Clone(whole)
			data[i] ^= bit
			mem.files[path] = &memNode{data}
			_, s, err := Open("/d", "net0", WithFS(mem))
			if i >= last {
				if err != nil || say(t, s) != want[len(steps)-1] {
					t.Fatalf("byte %d of the last record damaged: %v", i, err)
				}
				continue
			}
			var c *CorruptError
			if !errors.As(err, &c) || !errors.Is(err, ErrCorrupt) {
				t.Fatalf("byte %d damaged: %v, want a CorruptError", i, err)
			}
			if c.File != path || c.Offset > int64(i) {
				t.Fatalf("byte %d damaged: reported for %s at %d", i, c.File, c.Offset)
			}
			if !bytes.Equal(mem.files[path].data, data) {
				t.Fatalf("byte %d damaged: Open changed the file", i)
			}
		}
	}
}

func TestRefusesGoodFramesInTheWrongPlace(t *testing.T) {
	rec := func(seq uint32, kind byte, payload string) []byte {
		return appendFrame(nil, frame{kind, seq, []byte(payload)})
	}
	a, b := rec(1, kindOp, `{"op":"net.a=1"}`), rec(2, kindOp, `{"op":"net.a=2"}`)
	tests := []struct {
		name   string
		frames [][]byte
		offset int
	}{
		{"a frame is missing", [][]byte{b}, len(fileMagic)},
		{"a frame is there twice", [][]byte{a, a}, len(fileMagic) + len(a)},
		{"a kind of a later version", [][]byte{a, rec(2, 200, `{}`)}, len(fileMagic) + len(a)},
		{"an operation that breaks the rules", [][]byte{rec(1, kindOp, `{"op":"net=1"}`)}, len(fileMagic)},
		{"a payload that is not JSON", [][]byte{a, rec(2, kindDone, `{`)}, len(fileMagic) + len(a)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			mem := newMemFS()
			mem.files[Path("/d", "net0")] = &memNode{append([]byte(fileMagic), bytes.Join(tt.frames, nil)...)}
			_, _, err := Open("/d", "net0", WithFS(mem))
			var c *CorruptError
			if !errors.As(err, &c) || c.Offset != int64(tt.offset) {
				t.Errorf("%v, want a CorruptError at offset %d", err, tt.offset)
			}
		})
	}
}

func TestSetAside(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(Path(dir, "net0"), []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(dir, "net0"); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("a file of another kind: %v, want ErrCorrupt", err)
	}
	aside, err := SetAside(dir, "net0")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(aside); err != nil || string(b) != "something else" {
		t.Errorf("what was set aside: %q, %v", b, err)
	}
	j, _, err := Open(dir, "net0")
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// Whatever happens, and however often, the file is at most some times as large
// as what it says.
func TestPropertySizeFollowsState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mem := newMemFS()
		const min = 256
		j, _, err := Open("/d", "net0", WithFS(mem), WithCompaction(min))
		if err != nil {
			t.Fatal(err)
		}
		keys := rapid.IntRange(1, 8).Draw(t, "keys")
		for n := range rapid.IntRange(0, 400).Draw(t, "records") {
			if err := j.Op(oplog.Set(fmt.Sprintf("net.key%d", n%keys), fmt.Sprint(n))); err != nil {
				t.Fatal(err)
			}
		}
		live := len(fileMagic) + keys*64
		if size := len(mem.files[Path("/d", "net0")].data); size > max(min, 4*live) {
			t.Fatalf("%d bytes for %d keys", size, keys)
		}
	})
}

func TestAMillionChangesLeaveASmallJournal(t *testing.T) {
	mem := newMemFS()
	j, _, err := Open("/d", "net0", WithFS(mem))
	if err != nil {
		t.Fatal(err)
	}
	const changes, bound = 1_000_000, 64 << 10
	largest, before := 0, uint64(0)
	for n := range changes {
		op := oplog.Set("net.mtu", fmt.Sprint(1280+n%200))
		if n%2 == 1 {
			op = oplog.Set(fmt.Sprintf("net.feature.rx-%d", n%16), []string{"on", "off"}[n/16%2])
		}
		if err := j.Op(op); err != nil {
			t.Fatal(err)
		}
		largest = max(largest, len(mem.files[Path("/d", "net0")].data))
		if n == changes/10 {
			before = heap()
		}
	}
	if largest > bound {
		t.Errorf("the journal grew to %d bytes, want at most %d", largest, bound)
	}
	if after := heap(); after > before+bound {
		t.Errorf("%d bytes of memory in use after the first changes, %d after all", before, after)
	}
	t.Logf("at most %d bytes for 9 keys", largest)
}

// heap returns how many bytes are in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func FuzzOpen(f *testing.F) {
	mem := newMemFS()
	j, _, err := Open("/d", "net0", WithFS(mem))
	if err != nil {
		f.Fatal(err)
	}
	path := Path("/d", "net0")
	for _, st := range history() {
		if err := st.do(j); err != nil {
			f.Fatal(err)
		}
	}
	whole := mem.files[path].data
	f.Add(slices.Clone(whole))
	f.Add(slices.Clone(whole[:len(whole)/2]))
	f.Add([]byte(fileMagic))
	f.Add([]byte("umb"))
	f.Add(appendFrame([]byte(fileMagic), frame{kindOp, 1, []byte(`{"op":"net.a-="}`)}))
	f.Add(appendFrame([]byte(fileMagic), frame{kindFact, 1, []byte(`null`)}))
	f.Fuzz(func(t *testing.T, data []byte) {
		mem := newMemFS()
		mem.files[path] = &memNode{slices.Clone(data)}
		j, s, err := Open("/d", "net0", WithFS(mem))
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%v is not ErrCorrupt", err)
			}
			return
		}
		if s.Torn > len(data) {
			t.Fatalf("%d of %d bytes torn", s.Torn, len(data))
		}
		if err := j.Op(oplog.Set("net.after", "1")); err != nil {
			t.Fatal(err)
		}
		_, again, err := Open("/d", "net0", WithFS(mem))
		if err != nil || say(t, again) != say(t, j.State()) {
			t.Fatalf("opened again: %v", err)
		}
	})
}
