// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xentests

import "testing"

// TestUnprepared moves an HVM guest between the NICs of one host by "xl save" and
// "xl restore" of an unpatched Xen. Its device stays attached, and in use, until the
// domain is stopped, and nothing in the guest is asked or told before.
func TestUnprepared(t *testing.T) {
	l := open(t)
	h := l.host("xen-A", "e1000e", "rtl8139", "e1000")
	l.create(h, passed(0, 5))
	l.move(h, passed(1, 6)) // e1000e, by MSI-X, to rtl8139 in another slot
	l.move(h, passed(2, 6)) // to e1000 in the same slot
	l.unharmed()
}

// TestTwoHosts is the same between two hosts: the stream of the domain goes from one
// dom0 to the other.
func TestTwoHosts(t *testing.T) {
	l := open(t)
	a := l.host("xen-A", "e1000e")
	b := l.host("xen-B", "rtl8139")
	l.create(a, passed(0, 5))
	l.move(b, passed(0, 6))
	l.unharmed()
}
