// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package hotplug

import (
	"errors"
	"strings"
	"testing"
)

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
