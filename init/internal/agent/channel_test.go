// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package agent

import (
	"testing"

	"github.com/umbra-vm/umbra/drivers/xenstore"
	"github.com/umbra-vm/umbra/drivers/xenstore/xenstoretest"
)

func TestChannel(t *testing.T) {
	for _, tt := range []struct {
		rule  string
		store map[string]string
		want  string
	}{
		{"a guest without further consoles has none", map[string]string{"control/other": ""}, ""},
		{"a console without a name is none", map[string]string{"device/console/1/type": "ioemu"}, ""},
		{"a channel has its name and the number of its console", map[string]string{
			"device/console/1/name": "org.other", "device/console/2/name": "org.umbra.ctl",
		}, "/dev/hvc2"},
		{"another name is another channel", map[string]string{"device/console/1/name": "org.umbra.ctl2"}, ""},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			got, err := channel(xenstoretest.New(t, tt.store).Open, "org.umbra.ctl")
			if err != nil || got != tt.want {
				t.Errorf("channel %q, %v, want %q", got, err, tt.want)
			}
		})
	}
	if got, err := channel(func() (*xenstore.Conn, error) { return nil, xenstore.ErrNoXen }, "org.umbra.ctl"); got != "" || err != nil {
		t.Errorf("where there is no Xen: %q, %v", got, err)
	}
}
