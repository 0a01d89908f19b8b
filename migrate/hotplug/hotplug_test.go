// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package hotplug

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/migrate"
	"github.com/umbra-vm/umbra/migrate/qmp"
)

// testContext ends what hangs.
func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// diary is what was done to both sides, in order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) write(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

func (d *diary) read() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.lines)
}

// machine is a QEMU that consists of its devices.
type machine struct {
	name   string
	diary  *diary
	status string

	mu      sync.Mutex
	conn    net.Conn
	devices map[string]map[string]any // options by id

	// guest is what the guest does when it is asked to let go of a device; nil:
	// it does. It is called without mu.
	guest func(m *machine, id string)

	// add, if not nil, says why a device cannot be plugged in.
	add func(id string) error

	// refuse is the text with which an unplug is refused.
	refuse map[string]string
}

// models are those that a machine knows, with the names of their options.
var models = map[string][]string{
	"e1000": {"netdev", "mac", "addr", "romfile"},
	"nvme":  {"drive", "addr", "serial"},
	"kbd":   {"display"},
}

func (m *machine) say(format string, args ...any) {
	fmt.Fprintf(m.conn, format+"\n", args...)
}

// letGo is a guest that does as it is asked.
func (m *machine) letGo(id string) {
	m.mu.Lock()
	delete(m.devices, id)
	m.mu.Unlock()
	m.say(`{"event": "DEVICE_DELETED", "data": {"path": "/machine/peripheral/%s/virtio"}, "timestamp": {"seconds": 1, "microseconds": 1}}`, id)
	m.say(`{"event": "DEVICE_DELETED", "data": {"device": %q, "path": "/machine/peripheral/%s"}, "timestamp": {"seconds": 1, "microseconds": 1}}`, id, id)
}

func (m *machine) start(t *testing.T) *qmp.Client {
	t.Helper()
	here, there := net.Pipe()
	m.conn = there
	t.Cleanup(func() { there.Close() })
	go func() {
		io.WriteString(there, `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}`+"\n")
		for lines := bufio.NewScanner(there); lines.Scan(); {
			var r struct {
				ID      string         `json:"id"`
				Execute string         `json:"execute"`
				Args    map[string]any `json:"arguments"`
			}
			if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
				t.Errorf("%s got %q: %v", m.name, lines.Bytes(), err)
				return
			}
			out, err := m.execute(r.Execute, r.Args)
			var refused *qmp.Error
			switch {
			case errors.As(err, &refused):
				m.say(`{"id": %q, "error": {"class": %q, "desc": %q}}`, r.ID, refused.Class, refused.Desc)
			case err != nil: // it dies
				there.Close()
				return
			default:
				b, err := json.Marshal(out)
				if err != nil {
					t.Error(err)
				}
				m.say(`{"id": %q, "return": %s}`, r.ID, b)
			}
			if r.Execute == "device_del" && (err == nil || strings.Contains(err.Error(), alreadyAsked)) {
				if m.guest == nil {
					m.letGo(r.Args["id"].(string))
				} else {
					m.guest(m, r.Args["id"].(string))
				}
			}
		}
	}()
	c, err := qmp.New(testContext(t), here)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func refusal(format string, args ...any) error {
	return &qmp.Error{Class: qmp.ClassGeneric, Desc: fmt.Sprintf(format, args...)}
}

func (m *machine) execute(command string, args map[string]any) (any, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	text := func(key string) string { s, _ := args[key].(string); return s }
	none := struct{}{}
	switch command {
	case "qmp_capabilities":
		return none, nil
	case "query-status":
		return map[string]string{"status": m.status}, nil
	case "query-migrate-capabilities":
		return []int{}, nil
	case "query-pci":
		var list []map[string]any
		for id, d := range m.devices {
			if addr, ok := d["addr"].(string); ok {
				at := function(addr)
				list = append(list, map[string]any{"qdev_id": id, "bus": 3, "slot": at[0], "function": at[1]})
			}
		}
		port := map[string]any{"qdev_id": "port", "bus": 0, "slot": 1, "function": 0, "pci_bridge": map[string]any{"devices": list}}
		return []any{map[string]any{"bus": 0, "devices": []any{port}}}, nil
	case "query-migrate-parameters":
		return none, nil
	case "qom-list":
		list := []map[string]string{{"name": "type", "type": "string"}}
		for id, d := range m.devices {
			list = append(list, map[string]string{"name": id, "type": fmt.Sprintf("child<%s>", d["driver"])})
		}
		return list, nil
	case "qom-get":
		d := m.devices[strings.TrimPrefix(text("path"), root+"/")]
		switch v, ok := d[text("property")]; {
		case text("property") == "parent_bus":
			return "/machine/host/pci.0", nil
		case !ok:
			return nil, refusal("Property %q not found", text("property"))
		case text("property") == "addr":
			at := function(v.(string))
			return at[0]<<3 | at[1], nil
		default:
			return v, nil
		}
	case "device-list-properties":
		names, ok := models[text("typename")]
		if !ok {
			return nil, &qmp.Error{Class: qmp.ClassDeviceNotFound, Desc: "no such type"}
		}
		var list []map[string]string
		for _, n := range names {
			list = append(list, map[string]string{"name": n})
		}
		return list, nil
	case "device_del":
		m.diary.write("%s: del %s", m.name, text("id"))
		if why := m.refuse[text("id")]; why != "" {
			return nil, refusal("%s", why)
		}
		return none, nil
	case "device_add":
		m.diary.write("%s: add %s", m.name, text("id"))
		if m.add != nil {
			if err := m.add(text("id")); err != nil {
				return nil, err
			}
		}
		if m.devices[text("id")] != nil {
			return nil, refusal("Duplicate device ID %q", text("id"))
		}
		m.devices[text("id")] = args
		return none, nil
	}
	return nil, refusal("unexpected %s", command)
}

func (m *machine) has() map[string]map[string]any {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.devices)
}

func device(t *testing.T, option string) Device {
	t.Helper()
	d, err := Parse(option)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// both are a source with two devices and a destination that waits.
type both struct {
	src, dst *machine
	move     *move
	diary    *diary
	moved    error // what the migration comes to
	cancel   context.CancelCauseFunc
	steps    []string
}

func newBoth(t *testing.T, change func(*both)) (*both, context.Context) {
	ctx, cancel := context.WithCancelCause(testContext(t))
	t.Cleanup(func() { cancel(nil) })
	b := &both{diary: new(diary), cancel: cancel}
	b.src = &machine{name: "source", diary: b.diary, status: "running", devices: map[string]map[string]any{
		"a":     {"driver": "e1000", "id": "a", "netdev": "na", "mac": "52:54:00:00:00:0a", "addr": "2", "romfile": ""},
		"b":     {"driver": "nvme", "id": "b", "drive": "db", "addr": "1f.1", "serial": "s"},
		"other": {"driver": "kbd", "id": "other"},
	}}
	b.dst = &machine{name: "destination", diary: b.diary, status: "inmigrate", devices: map[string]map[string]any{}}
	b.move = &move{opts: Options{
		Unplug: []Device{device(t, "e1000,id=a,netdev=na,romfile="), device(t, "nvme,id=b,drive=db,addr=0x1f.1,serial=s")},
		Plug:   []Device{device(t, "e1000,id=x,netdev=nx"), device(t, "e1000,id=y,netdev=ny")},
		OnStep: func(s Step) {
			if s.Over {
				return
			}
			b.steps = append(b.steps, strings.TrimSpace(string(s.Op)+" "+s.Device))
		},
	}, migrate: func(context.Context, *qmp.Client, *qmp.Client, migrate.Options) (*migrate.Report, error) {
		b.diary.write("migrate")
		if b.moved != nil {
			return nil, b.moved
		}
		b.src.mu.Lock()
		b.src.status = "postmigrate"
		b.src.mu.Unlock()
		b.dst.mu.Lock()
		b.dst.status = "running"
		b.dst.mu.Unlock()
		return new(migrate.Report), nil
	}}
	if change != nil {
		change(b)
	}
	b.move.src, b.move.dst = b.src.start(t), b.dst.start(t)
	return b, ctx
}

var errEnough = errors.New("the user has had enough")

// silent is a guest that does not answer for one device.
func silent(device string) func(*machine, string) {
	return func(m *machine, id string) {
		if id != device {
			m.letGo(id)
		}
	}
}

// TestRun: a failure at each step, and what is undone, in which order.
func TestRun(t *testing.T) {
	const soon = 20 * time.Millisecond // for a guest that never answers
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
			rule: "if the guest does not answer the second unplug, the first device comes back, and it is said that the second may go",
			change: func(b *both) {
				b.move.opts.Timeout = soon
				b.src.guest = silent("b")
			},
			want: []error{ErrUnanswered, ErrPending}, text: `the source is "running", has a, b`,
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

// agent is the guest's end of a Guest.
type agent struct {
	diary *diary
	err   error
}

func (a *agent) Unplug(_ context.Context, address string, within time.Duration) error {
	a.diary.write("guest: without %s", address)
	if within <= 0 {
		a.diary.write("guest: for no time at all")
	}
	return a.err
}

func (a *agent) Keep(_ context.Context, address string) error {
	a.diary.write("guest: with %s", address)
	return a.err
}

// TestGuest: who is told what, and when.
func TestGuest(t *testing.T) {
	for _, tt := range []struct {
		rule  string
		moved error
		told  error
		done  string
	}{
		{
			"a guest is told before it is asked", nil, nil,
			"guest: without 0000:03:02.0, source: del a, guest: without 0000:03:1f.1, source: del b, migrate",
		}, {
			"and that a device is back when it is", migrate.ErrMigration, nil,
			"guest: without 0000:03:02.0, source: del a, guest: without 0000:03:1f.1, source: del b, migrate, " +
				"source: add b, guest: with 0000:03:1f.1, source: add a, guest: with 0000:03:02.0",
		}, {
			"one that cannot be told is asked all the same", nil, errors.New("no agent"),
			"guest: without 0000:03:02.0, source: del a, guest: without 0000:03:1f.1, source: del b, migrate",
		},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			b, ctx := newBoth(t, func(b *both) {
				b.moved = tt.moved
				b.move.opts.Plug = nil
				b.move.opts.Guest = &agent{b.diary, tt.told}
			})
			if _, err := b.move.run(ctx); !errors.Is(err, tt.moved) {
				t.Errorf("error %v", err)
			}
			if got := strings.Join(b.diary.read(), ", "); got != tt.done {
				t.Errorf("done:\n%s\nwant:\n%s", got, tt.done)
			}
		})
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

// TestRefused: what can be found out beforehand is, and changes nothing.
func TestRefused(t *testing.T) {
	unplug := func(option string) func(*both, *testing.T) {
		return func(b *both, t *testing.T) { b.move.opts.Unplug = []Device{device(t, option)} }
	}
	plug := func(options ...string) func(*both, *testing.T) {
		return func(b *both, t *testing.T) {
			b.move.opts.Plug = nil
			for _, o := range options {
				b.move.opts.Plug = append(b.move.opts.Plug, device(t, o))
			}
		}
	}
	for _, tt := range []struct {
		rule   string
		change func(*both, *testing.T)
		want   error
		text   string
	}{
		{"a destination that does not wait", func(b *both, _ *testing.T) { b.dst.status = "running" }, migrate.ErrNotIncoming, ""},
		{"a source that does not run", func(b *both, _ *testing.T) { b.src.status = "paused" }, migrate.ErrNotRunning, ""},
		{"a device that the source does not have", unplug("e1000,id=c"), migrate.ErrNoDevice, `"c"`},
		{"another model by that id", unplug("nvme,id=a"), ErrOptions, `its model is "e1000"`},
		{"another back end", unplug("e1000,id=a,netdev=nb"), ErrOptions, `its netdev is "na"`},
		{"another disk", unplug("nvme,id=b,drive=da"), ErrOptions, `its drive is "db"`},
		{"another MAC", unplug("e1000,id=a,mac=52:54:00:00:00:0b"), ErrOptions, "its mac is"},
		{"another slot", unplug("e1000,id=a,addr=0x3"), ErrOptions, `its addr is "2.0"`},
		{"another bus", unplug("e1000,id=a,bus=pci.1"), ErrOptions, `its bus is "pci.0"`},
		{"an option that the model does not have", unplug("e1000,id=a,romfiel="), ErrOptions, `"romfiel"`},
		{"a device twice", func(b *both, _ *testing.T) { b.move.opts.Unplug[1] = b.move.opts.Unplug[0] }, ErrOptions, "twice"},
		{"a device that is to be left behind as well", func(b *both, _ *testing.T) { b.move.opts.Direct = []string{"a"} }, ErrOptions, "left behind"},
		{"a model that the destination does not know", plug("e1001,id=x"), ErrOptions, `no model "e1001"`},
		{"an option that the destination does not know", plug("e1000,id=x,rom=no"), ErrOptions, `"rom"`},
		{"an id that the destination uses", func(b *both, _ *testing.T) {
			b.dst.devices["y"] = map[string]any{"driver": "e1000"}
		}, ErrInUse, `"y"`},
		{"an id that is to be used twice", plug("e1000,id=x", "nvme,id=x"), ErrInUse, `"x"`},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			b, ctx := newBoth(t, func(b *both) { tt.change(b, t) })
			_, err := b.move.run(ctx)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %v, want %v with %q", err, tt.want, tt.text)
			}
			var e *Error
			if errors.As(err, &e) {
				t.Errorf("error %v says that something was changed", err)
			}
			if got := b.diary.read(); len(got) > 0 {
				t.Errorf("done: %q", got)
			}
		})
	}
}

// TestDeviceComesBackAsItWas: what was left to QEMU is asked for.
func TestDeviceComesBackAsItWas(t *testing.T) {
	b, ctx := newBoth(t, func(b *both) { b.moved = migrate.ErrMigration })
	b.move.run(ctx)
	for _, want := range []map[string]any{
		{"driver": "e1000", "id": "a", "netdev": "na", "romfile": "", "mac": "52:54:00:00:00:0a", "addr": "2.0", "bus": "pci.0"},
		{"driver": "nvme", "id": "b", "drive": "db", "serial": "s", "addr": "0x1f.1", "bus": "pci.0"},
	} {
		if got := b.src.has()[want["id"].(string)]; !maps.Equal(got, want) {
			t.Errorf("plugged back %v, want %v", got, want)
		}
	}
}

func TestPlug(t *testing.T) {
	for _, tt := range []struct {
		rule   string
		change func(*machine)
		want   error
		done   string
	}{
		{"what is missing is plugged in", nil, nil, "machine: add x, machine: add y"},
		{"what is there is left as it is", func(m *machine) {
			m.devices["x"] = map[string]any{"driver": "e1000"}
		}, nil, "machine: add y"},
		{"another model by that id is refused", func(m *machine) {
			m.devices["x"] = map[string]any{"driver": "nvme"}
		}, ErrInUse, ""},
		{"a guest that has yet to arrive is refused", func(m *machine) { m.status = "inmigrate" }, ErrNotReady, ""},
		{"a guest that has left is refused", func(m *machine) { m.status = "postmigrate" }, ErrNotReady, ""},
		{"a failure does not keep the next one away", func(m *machine) {
			m.add = func(id string) error {
				if id == "x" {
					return refusal("no")
				}
				return nil
			}
		}, ErrNotPlugged, "machine: add x, machine: add y"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			m := &machine{name: "machine", diary: new(diary), status: "running", devices: map[string]map[string]any{}}
			if tt.change != nil {
				tt.change(m)
			}
			err := Plug(testContext(t), m.start(t), []Device{device(t, "e1000,id=x"), device(t, "e1000,id=y")}, nil)
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if got := strings.Join(m.diary.read(), ", "); got != tt.done {
				t.Errorf("done %q, want %q", got, tt.done)
			}
		})
	}
}

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		option string
		want   string // of device_add, as JSON; "" if it is refused
	}{
		{"e1000,id=a", `{"driver":"e1000","id":"a"}`},
		{"driver=e1000,id=a", `{"driver":"e1000","id":"a"}`},
		{"e1000,id=a,romfile=,addr=0x2.1", `{"addr":"0x2.1","driver":"e1000","id":"a","romfile":""}`},
		{"vfio-pci,id=a,sysfsdev=/sys/x,,y,multifunction", `{"driver":"vfio-pci","id":"a","multifunction":"on","sysfsdev":"/sys/x,y"}`},
		{"nvme,id=a,serial=a=b", `{"driver":"nvme","id":"a","serial":"a=b"}`},
		{`{"driver":"virtio-net-pci","id":"a","vectors":[1,2]}`, `{"driver":"virtio-net-pci","id":"a","vectors":[1,2]}`},
		{"", ""},
		{"e1000", ""},
		{"id=a", ""},
		{"e1000,id=a,id=b", ""},
		{"e1000,id=a,", ""},
		{"e1000,id=a,=2", ""},
		{`{"driver":"e1000","id":7}`, ""},
		{`{"driver":"e1000","id":"a"`, ""},
	} {
		d, err := Parse(tt.option)
		if tt.want == "" {
			if !errors.Is(err, ErrOptions) {
				t.Errorf("Parse(%q) = %v, %v", tt.option, d, err)
			}
			continue
		}
		if err != nil {
			t.Error(err)
			continue
		}
		if got, err := json.Marshal(d.arguments()); err != nil || string(got) != tt.want {
			t.Errorf("Parse(%q) gives %s, %v; want %s", tt.option, got, err, tt.want)
		}
	}
}
