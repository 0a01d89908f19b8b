// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package config_test

import (
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/config/slot"
)

func TestUpdate(t *testing.T) {
	for _, tt := range []struct{ rule, text, fails string }{
		{"both times have a default", `{}`, ""},
		{"or are given", `{"update":{"settle_s":30,"timeout_s":600}}`, ""},
		{"there must be time to settle", `{"update":{"settle_s":300}}`, "update.timeout_s"},
		{"no time is negative", `{"update":{"settle_s":-1}}`, "update.settle_s"},
		{"or longer than a day", `{"update":{"timeout_s":86401}}`, "update.timeout_s"},
		{"no service has the name of what looks at it", `{"services":[{"name":"update","argv":["/app"]}]}`, "services[0].name"},
	} {
		t.Run(tt.rule, func(t *testing.T) { wantFault(t, tt.text, tt.fails) })
	}
}

func TestAGuestKnowsItsSlotFromTheCommandLine(t *testing.T) {
	c := new(config.Config)
	if err := c.Override("quiet umbra.slot=my-app-1.4"); err != nil || c.Slot != (slot.Slot{Image: "my-app", Version: "1.4"}) {
		t.Errorf("slot %+v, %v", c.Slot, err)
	}
	if err := new(config.Config).Override("umbra.slot=app"); err == nil || !strings.Contains(err.Error(), "umbra.slot") {
		t.Errorf("a slot without a version: %v", err)
	}
}
