// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package hotplug

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/umbra-vm/umbra/migrate"
	"github.com/umbra-vm/umbra/migrate/qmp"
)

var errEnough = errors.New("the user has had enough")

// silent is a guest that does not answer for one device.
func silent(device string) func(*machine, string) {
	return func(m *machine, id string) {
		if id != device {
			m.letGo(id)
		}
	}
}

// TestRun: a failure at each step, and what is undone, in which order. Time passes only
// when nobody has anything to do: nobody is late but a guest that never answers.
func TestRun(t *testing.T) {
	for _, tt := range []struct {
		rule   string
		change func(*both)
		want   []error
		never  []error
		text   string
		// done is what the machines were told to do.
		done string
		// lacks are the devices that the source lacks in the end.
		lacks  []string
		report bool
	}{
		{
			rule:  "without a failure the devices go in their order, then the guest, then the new devices come in theirs",
			done:  "source: del a, source: del b, migrate, destination: add x, destination: add y",
			lacks: []string{"a", "b"}, report: true,
		}, {
			rule:   "an unplug that QEMU refuses changes nothing",
			change: func(b *both) { b.src.refuse = map[string]string{"a": "Bus 'pci.0' does not support hotplugging"} },
			text:   "does not support hotplugging",
			done:   "source: del a",
		}, {
			rule:   "if QEMU refuses the second unplug, the first device comes back",
			change: func(b *both) { b.src.refuse = map[string]string{"b": "Device b is busy"} },
			text:   "Device b is busy",
			done:   "source: del a, source: del b, source: add a",
		}, {
			rule: "a guest that was asked before, and has not answered, is waited for",
			change: func(b *both) {
				b.src.refuse = map[string]string{"a": "Device a is already in the process of unplug"}
			},
			done:  "source: del a, source: del b, migrate, destination: add x, destination: add y",
			lacks: []string{"a", "b"}, report: true,
		}, {
			rule: "if the guest refuses the second unplug, the first device comes back",
			change: func(b *both) {
				b.src.guest = func(m *machine, id string) {
					if id == "a" {
						m.letGo(id)
						return
					}
					m.say(`{"event": "DEVICE_UNPLUG_GUEST_ERROR", "data": {"device": "other", "path": "/"}, "timestamp": {"seconds": 1, "microseconds": 1}}`)
					m.say(`{"event": "DEVICE_UNPLUG_GUEST_ERROR", "data": {"device": %q, "path": "/"}, "timestamp": {"seconds": 1, "microseconds": 1}}`, id)
				}
			},
			want: []error{ErrGuestRefused}, never: []error{ErrPending},
			done: "source: del a, source: del b, source: add a",
		}, {
			rule:   "if the guest does not answer the second unplug, the first device comes back, and it is said that the second may go",
			change: func(b *both) { b.src.guest = silent("b") },
			want:   []error{ErrUnanswered, ErrPending}, text: `the source is "running", has a, b`,
			done: "source: del a, source: del b, source: add a",
		}, {
			rule: "an answer that comes when the wait was given up still brings the device back, after those that are surely missing",
			change: func(b *both) {
				b.src.guest = func(m *machine, id string) {
					if id == "a" {
						m.letGo(id)
						return
					}
					b.cancel(errEnough)
				}
				b.src.add = func(id string) error {
					if id == "a" {
						go b.src.letGo("b") // only now
					}
					return nil
				}
			},
			want: []error{errEnough}, never: []error{ErrPending},
			done: "source: del a, source: del b, source: add a, source: add b",
		}, {
			rule: "if the context ends between two steps, what was done is undone",
			change: func(b *both) {
				b.move.opts.OnStep = func(s Step) {
					if s.Op == OpUnplug && s.Device == "a" && s.Over {
						b.cancel(errEnough)
					}
				}
			},
			want: []error{errEnough}, never: []error{ErrPending},
			done: "source: del a, source: add a",
		}, {
			rule:   "if the migration fails, the devices come back, the last one first",
			change: func(b *both) { b.moved = migrate.ErrDestinationLost },
			want:   []error{migrate.ErrDestinationLost}, text: `the source is "running", has a, b; the destination is "inmigrate", lacks x, y`,
			done: "source: del a, source: del b, migrate, source: add b, source: add a",
		}, {
			rule: "a device that cannot come back does not keep the others away",
			change: func(b *both) {
				b.moved = migrate.ErrMigration
				b.src.add = func(id string) error {
					if id == "b" {
						return refusal("vfio: error getting device")
					}
					return nil
				}
			},
			want: []error{migrate.ErrMigration, ErrNotPluggedBack}, text: `has a, lacks b`,
			done:  "source: del a, source: del b, migrate, source: add b, source: add a",
			lacks: []string{"b"},
		}, {
			rule:   "if nobody knows who runs the guest, the source gets nothing",
			change: func(b *both) { b.moved = migrate.ErrUnknownOutcome },
			want:   []error{migrate.ErrUnknownOutcome}, text: "lacks a, b",
			done:  "source: del a, source: del b, migrate",
			lacks: []string{"a", "b"},
		}, {
			rule: "a source that dies over an unplug is said to be gone",
			change: func(b *both) {
				b.src.guest = func(m *machine, _ string) { m.conn.Close() }
			},
			want: []error{qmp.ErrGone, ErrNotPluggedBack}, text: "the source does not answer",
			done: "source: del a", lacks: nil,
		}, {
			rule: "a device that cannot be plugged in leaves the guest where it is, with the others",
			change: func(b *both) {
				b.dst.add = func(id string) error {
					if id == "x" {
						return refusal("Property 'e1000.netdev' can't find value 'nx'")
					}
					return nil
				}
			},
			want: []error{ErrNotPlugged}, text: `the destination is "running", has y, lacks x`,
			done:  "source: del a, source: del b, migrate, destination: add x, destination: add y",
			lacks: []string{"a", "b"}, report: true,
		}, {
			rule: "if the context ends when the guest has moved, what is not plugged in stays so, and is told",
			change: func(b *both) {
				b.dst.add = func(id string) error {
					b.cancel(errEnough)
					return nil
				}
			},
			want: []error{ErrNotPlugged, errEnough}, text: "has x, lacks y",
			done:  "source: del a, source: del b, migrate, destination: add x",
			lacks: []string{"a", "b"}, report: true,
		},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, ctx := newBoth(t, tt.change)
				before := b.src.has()
				report, err := b.move.run(ctx)
				if fails := len(tt.want) > 0 || tt.text != ""; fails != (err != nil) {
					t.Fatalf("error %v", err)
				}
				for _, want := range tt.want {
					if !errors.Is(err, want) {
						t.Errorf("error %q does not match %q", err, want)
					}
				}
				for _, never := range tt.never {
					if errors.Is(err, never) {
						t.Errorf("error %q matches %q", err, never)
					}
				}
				if err != nil {
					var e *Error
					if !errors.As(err, &e) || !strings.Contains(err.Error(), tt.text) {
						t.Errorf("error %q, want an Error with %q", err, tt.text)
					}
				}
				if (report != nil) != tt.report {
					t.Errorf("report %v", report)
				}
				if got := strings.Join(b.diary.read(), ", "); got != tt.done {
					t.Errorf("done:\n%s\nwant:\n%s", got, tt.done)
				}
				after := b.src.has()
				for id, d := range before {
					switch {
					case slices.Contains(tt.lacks, id) == (after[id] != nil):
						t.Errorf("source has %q: %t", id, after[id] != nil)
					case after[id] != nil:
						same(t, d, after[id])
					}
				}
			})
		})
	}
}

// same checks that a device has come back as it was: with all options that it had,
// at its place.
func same(t *testing.T, was, is map[string]any) {
	t.Helper()
	for key, v := range was {
		if key == "addr" && function(fmt.Sprint(v)) == function(fmt.Sprint(is[key])) {
			continue
		}
		if is[key] != v {
			t.Errorf("device %v came back as %v", was, is)
		}
	}
}

func TestSteps(t *testing.T) {
	b, ctx := newBoth(t, func(b *both) { b.moved = migrate.ErrMigration })
	if _, err := b.move.run(ctx); !errors.Is(err, migrate.ErrMigration) {
		t.Fatal(err)
	}
	want := []string{"unplug a", "unplug b", "migrate", "plug back b", "plug back a"}
	if !slices.Equal(b.steps, want) {
		t.Errorf("steps %q, want %q", b.steps, want)
	}
}
