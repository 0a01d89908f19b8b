// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package vmtests holds umbra's promises to a whole guest: real kernel, real
// drivers, real migrations between QEMU processes. Its tests need QEMU and
// Debian's kernel package, no privilege and no KVM. They run with the rest of
// go test ./... and are left out by -short.
//
// Each test boots an image with the witness (package ci/witness) in it, does to
// the guest what its name says, and lets the witness and neutral observers of
// the wire judge. What has to happen inside the guest is done by the nemesis
// (internal/nemesis), a program of the tests, for which the kernel's command
// line has a word. The tests see a guest from outside: they know its console,
// its control port and the wire, and nothing of the shadow's inside.
//
// No test asserts how long something took. Limits of time end what hangs.
package vmtests
