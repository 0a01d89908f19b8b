// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xenctl

import (
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/umbra-vm/umbra/drivers/xenstore/xenstoretest"
	"github.com/umbra-vm/umbra/init/internal/power"
)

func TestWatch(t *testing.T) {
	store := xenstoretest.New(t, map[string]string{"control/other": ""})
	conn, err := store.Open()
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan power.Request, 8)
	ended := make(chan error, 1)
	go func() { ended <- watch(conn, func(r power.Request) { asked <- r }) }()

	var acked []string
	for _, step := range []struct {
		value string
		want  power.Action // "" if it is not for init
	}{
		{"suspend", ""},
		{"", ""},
		{"crash", ""},
		{"reboot", power.Reboot},
		{"", ""},
		{"poweroff", power.PowerOff},
		{"halt", power.Halt},
	} {
		store.Set(shutdownNode, step.value)
		if step.want == "" {
			continue // the next request's order tells
		}
		if got := <-asked; got.Action != step.want {
			t.Errorf("%q asked for %q, want %q", step.value, got.Action, step.want)
		}
		if got := store.Get(shutdownNode); got != "" {
			t.Errorf("%q was not acknowledged: %q", step.value, got)
		}
		acked = append(acked, shutdownNode+"=")
	}
	conn.Close()
	if err := <-ended; !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("watch ended with %v, want that of the closed connection", err)
	}
	if len(asked) != 0 {
		t.Errorf("asked once too often: %v", <-asked)
	}
	if diff := cmp.Diff(acked, store.Written()); diff != "" {
		t.Errorf("writes (-want +got)\n%s", diff)
	}
}
