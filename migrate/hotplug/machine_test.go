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
