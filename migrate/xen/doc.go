// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package xen moves a running domain from one Xen host to another, or to other devices
// of the same one, with Xen's own xl.
//
// # Who may run the guest
//
// At every instant at most one of the two hosts may run the domain, and after any
// failure exactly one should. Move holds to that as follows.
//
//  1. "xl save -p" stops the domain, its devices attached and in use, and writes it into
//     a pipe. It stays on the source, paused, with its devices: that is the state which
//     is kept, and no file is.
//  2. "xl restore -p" makes of what comes a domain with the destination's devices,
//     paused. The stream goes through this process.
//  3. The point of no return is "xl unpause" on the destination.
//  4. "xl destroy" on the source, which gives its devices free.
//
// Whatever fails before 3 ends in a roll-back: the stream is cut, the destination's half
// is destroyed, and the source's unpaused. A cut stream is all that xl needs: the one
// that saves resumes its domain, the one that restores gives up what it has. So if this
// process is killed while the stream runs, the domain goes on where it was. Killed after
// that, it leaves a domain that is paused on both sides, or runs on the destination and
// is paused on the source: never two that run. If it is not known whether "xl unpause"
// was done, the source stays paused.
//
// It is the same on stock Xen and with umbra's patches. "xl migrate" would leave the last
// word to a hand-shake after which, if it fails, "domain state is now undefined".
//
// # Paravirtual guests
//
// The kernel of a paravirtual guest waits for an answer of its devices before anything else
// runs again, and takes no others for them. So one that has a device in use is restored with
// none; package pcifront answers it there, as part of an umbra that the destination has;
// and when the guest has given its old devices up, "xl pci-attach" gives it the new ones.
//
// One that goes on at the source after all is given its own devices anew. Its kernel has stopped
// their drivers and started them again; in the course of that Linux 6.1 leaves MSI-X on at the back
// end (xen_pv_teardown_msi_irqs in arch/x86/pci/xen.c asks for msix_enabled, which pci_msix_shutdown
// has cleared) and is refused to switch it on again. e1000e takes to MSI then, without a reset, and
// a guest was seen to stand still over it.
//
// The package must never know what runs in the guest, nor how its lines get to a host.
package xen
