// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package hotplug

import (
	"errors"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/migrate"
)

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
