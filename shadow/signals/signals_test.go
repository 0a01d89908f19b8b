// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package signals

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// script is a watcher that emits what it is told and then returns err, or waits.
type script struct {
	emit []string
	err  error
}

func (s script) Source() Source { return "script" }

func (s script) Watch(ctx context.Context, emit func(Migrated)) error {
	for _, d := range s.emit {
		emit(Migrated{Source: "script", Detail: d})
	}
	if s.err != nil {
		return s.err
	}
	<-ctx.Done()
	return nil
}

func details(c <-chan Migrated, n int) []string {
	var got []string
	for range n {
		got = append(got, (<-c).Detail)
	}
	return got
}

func TestMergeKeepsAllInOrderWithoutAReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var want []string
		for i := range 1000 {
			want = append(want, fmt.Sprint(i%10)) // equal signals are not made one
		}
		c := Merge(ctx, nil, script{emit: want})
		synctest.Wait() // the watcher has emitted all, though nobody received
		if d := cmp.Diff(want, details(c, len(want))); d != "" {
			t.Error(d)
		}
		cancel()
		if m, ok := <-c; ok {
			t.Errorf("got %+v, want the channel closed", m)
		}
	})
}

func TestMergeGoesOnWithoutAWatcherThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		manual := NewManual(Operator)
		manual.Notify(0, "", "before anybody watches")
		c := Merge(ctx, nil, script{emit: []string{"last words"}, err: errors.New("broken")}, manual)
		got := strings.Join(details(c, 2), ", ")
		if !strings.Contains(got, "last words") || !strings.Contains(got, "before anybody watches") {
			t.Errorf("got %s", got)
		}
		manual.Notify(0, "net0", "after")
		if m := <-c; m.Detail != "after" || m.Device != "net0" || m.Source != Operator {
			t.Errorf("got %+v", m)
		}
		cancel()
		for range c {
		}
	})
}

func TestManualDatesBack(t *testing.T) {
	m := NewManual(Host)
	before := Now()
	m.Notify(time.Hour, "", "")
	got := m.queue.take()[0]
	if ago := before - got.At; ago > time.Hour.Nanoseconds() || ago < (time.Hour-time.Minute).Nanoseconds() {
		t.Errorf("signal is %v old, want about an hour", time.Duration(ago))
	}
}

func TestPoll(t *testing.T) {
	broken := errors.New("no answer")
	type answer struct {
		moved bool
		err   error
	}
	for _, tt := range []struct {
		name    string
		answers []answer
		want    int
	}{
		{"a device that stays is no signal", []answer{{}, {}, {}}, 0},
		{"a device that moved is one signal, however long it stays away", []answer{{}, {moved: true}, {moved: true}, {moved: true}}, 1},
		{"a device that moved before the first check is a signal", []answer{{moved: true}}, 1},
		{"a second move is a second signal", []answer{{moved: true}, {}, {moved: true}}, 2},
		{"an error is no answer", []answer{{moved: true}, {err: broken}, {moved: true}, {moved: false, err: broken}, {moved: true}}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				n := 0
				check := Check{Device: "net0", Moved: func(context.Context) (bool, error) {
					a := tt.answers[n]
					if n++; n == len(tt.answers) {
						cancel()
					}
					return a.moved, a.err
				}}
				start := time.Now()
				var got []Migrated
				if err := NewPoll(nil, time.Minute, check).Watch(ctx, func(m Migrated) { got = append(got, m) }); err != nil {
					t.Error(err)
				}
				if len(got) != tt.want {
					t.Errorf("%d signals, want %d", len(got), tt.want)
				}
				for _, m := range got {
					if m.Source != Identity || m.Device != "net0" || m.At == 0 {
						t.Errorf("got %+v", m)
					}
				}
				mean := time.Since(start) / time.Duration(len(tt.answers))
				if least, most := 54*time.Second, 66*time.Second; mean < least || mean > most {
					t.Errorf("checked every %v, want a minute within the jitter", mean)
				}
			})
		})
	}
}

func TestPollStall(t *testing.T) {
	for _, tt := range []struct {
		name  string
		takes time.Duration // the second check
		jumps time.Duration // the clock, while that is running
		want  int
	}{
		{"a guest that is busy", time.Millisecond, StallTime - time.Second, 0},
		{"a guest that stood still", time.Millisecond, StallTime, 1},
		{"a check that takes long", 2 * StallTime, 0, 0},
		{"a guest that stood still in a check that takes long is not noticed later for that", 10 * StallTime, StallTime, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				var jump atomic.Int64
				var jumped time.Time
				n := 0
				check := Check{Device: "net0", Moved: func(context.Context) (bool, error) {
					if n++; n == 2 {
						jumped = time.Now()
						jump.Store(int64(tt.jumps))
						time.Sleep(tt.takes)
					} else if n == 5 {
						cancel()
					}
					return false, nil
				}}
				p := NewPoll(nil, time.Second, check)
				p.now = func() time.Time { return time.Now().Add(time.Duration(jump.Load())) }
				var got []Migrated
				err := p.Watch(ctx, func(m Migrated) {
					got = append(got, m)
					if after := time.Since(jumped); after > 2*time.Second {
						t.Errorf("signalled after %v", after)
					}
				})
				if err != nil {
					t.Error(err)
				}
				if len(got) != tt.want {
					t.Fatalf("signals %+v, want %d", got, tt.want)
				}
				for _, m := range got {
					if m.Source != Stall || m.At == 0 || m.Detail != "late by 5s" {
						t.Errorf("got %+v", m)
					}
				}
			})
		})
	}
}

func TestJitter(t *testing.T) {
	for r, want := range map[float64]time.Duration{0: 900 * time.Millisecond, 0.5: time.Second, 1: 1100 * time.Millisecond} {
		if got := jittered(time.Second, r).Round(time.Microsecond); got != want {
			t.Errorf("jittered(1s, %v) = %v, want %v", r, got, want)
		}
	}
}

func TestParseUevent(t *testing.T) {
	for _, tt := range []struct {
		name string
		text string
		want uevent
		err  error
	}{
		{
			name: "a PCI function is named by its address",
			text: "add@/devices/pci0000:00/0000:00:05.0|ACTION=add|DEVPATH=/devices/pci0000:00/0000:00:05.0|SUBSYSTEM=pci|PCI_CLASS=20000|PCI_ID=10EC:8139|PCI_SLOT_NAME=0000:00:05.0|MODALIAS=pci:v000010ECd00008139|SEQNUM=900|",
			want: uevent{"add", "pci", "0000:00:05.0"},
		},
		{
			name: "others by the end of their path",
			text: "remove@/devices/virtual/net/tap0|ACTION=remove|SUBSYSTEM=net|",
			want: uevent{"remove", "net", "tap0"},
		},
		{name: "a value may be empty or hold an equals sign", text: "change@/d|A=|B=c=d|", want: uevent{"change", "", "d"}},
		{name: "udev's own messages are refused", text: "libudev|\xfe\xed\xca\xfe|", err: errUevent},
		{name: "so is a head without path", text: "add@|", err: errUevent},
		{name: "so is a head that does not end", text: "add@/devices/x", err: errUevent},
		{name: "so is a field without value", text: "add@/devices/x|ACTION|", err: errUevent},
		{name: "so is nothing", text: "", err: errUevent},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseUevent([]byte(strings.ReplaceAll(tt.text, "|", "\x00")))
			if !errors.Is(err, tt.err) || got != tt.want {
				t.Errorf("got %+v, %v, want %+v, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

func FuzzParseUevent(f *testing.F) {
	f.Add([]byte("add@/devices/pci0000:00/0000:00:05.0\x00SUBSYSTEM=pci\x00PCI_SLOT_NAME=0000:00:05.0\x00"))
	f.Add([]byte("a@b\x00=\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseUevent(b)
		if err == nil && e.action == "" {
			t.Errorf("%+v without action", e)
		}
		if err != nil && (e != uevent{} || !errors.Is(err, errUevent)) {
			t.Errorf("%+v, %v", e, err)
		}
	})
}

func TestFindGeneration(t *testing.T) {
	sysfs := t.TempDir()
	if err := findGeneration(sysfs); !errors.Is(err, errNoGeneration) {
		t.Errorf("without the driver: %v", err)
	}
	driver := filepath.Join(sysfs, "bus/acpi/drivers/vmgenid")
	if err := os.MkdirAll(driver, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(driver, "bind"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := findGeneration(sysfs); !errors.Is(err, errNoGeneration) {
		t.Errorf("without a device: %v", err)
	}
	if err := os.Symlink("../../../../devices/x", filepath.Join(driver, "QEMUVGID:00")); err != nil {
		t.Fatal(err)
	}
	if err := findGeneration(sysfs); err != nil {
		t.Errorf("with a device: %v", err)
	}
}

func TestUnavailableErrorMatches(t *testing.T) {
	err := fmt.Errorf("start: %w", &UnavailableError{Generation, &fs.PathError{Op: "open", Path: "x", Err: unix.ENOENT}})
	var un *UnavailableError
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &un) || un.Source != Generation {
		t.Errorf("%v matches too little", err)
	}
}

func TestUeventsEndWithTheirContext(t *testing.T) {
	u, err := NewUevents(nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- u.Watch(ctx, func(Migrated) {}) }()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
