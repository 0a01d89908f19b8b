// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package outputs boots what umbra build makes beside kernel and initramfs, by the
// firmware it is meant for, and has the tools of those who made the formats look at
// it.
//
// Firmware under emulation takes its time: go test ./... boots the disk only; the rest
// runs with the flag -outputs, or by make test-outputs.
//
// It consists of tests only, and knows of the guest what it says on its console.
package outputs
