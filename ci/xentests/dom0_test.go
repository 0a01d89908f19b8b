// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xentests

import (
	"regexp"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/ci/xenlab"
)

// TestDom0 is what the other tests stand on: a host that can pass devices through to
// HVM guests, and does.
func TestDom0(t *testing.T) {
	t.Parallel()
	for _, x := range []xen{stockXen, patchedXen} {
		t.Run(x.name, func(t *testing.T) { testDom0(t, x) })
	}
}

func testDom0(t *testing.T, x xen) {
	t.Parallel()
	l := open(t, x)
	h := l.host("xen-A", "e1000e", "rtl8139")
	info, err := h.Run(l.ctx, "xl info")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`(?m)^xen_version .*: 4\.17\.`, `(?m)^virt_caps .*\bhvm_directio\b`} {
		if !regexp.MustCompile(want).MatchString(info) {
			t.Errorf("xl info does not say %q:\n%s", want, info)
		}
	}
	free, err := h.Run(l.ctx, "xl pci-assignable-list")
	if err != nil {
		t.Fatal(err)
	}
	for n := range 2 {
		if !strings.Contains(free, xenlab.Device(n)) {
			t.Errorf("%s cannot be given to a domain, these can:\n%s", xenlab.Device(n), free)
		}
	}
}
