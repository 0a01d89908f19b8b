// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package hotplug moves a guest whose devices block its migration, as VFIO's do:
// the source's devices are unplugged, the guest moves, and what the destination
// has is plugged in there.
//
// # Steps
//
// A move is a list of steps, each with the deed that undoes it.
//
//  1. Everything that can be asked is asked, of both sides. A refusal up to here
//     has changed nothing.
//  2. The devices are unplugged, one after the other: the guest is told, if there
//     is a way, so that it can do without the device before its driver is taken
//     away; then it is asked (device_del in QEMU's qapi/qdev.json) and lets go
//     (DEVICE_DELETED). The devices' back ends, such as a -netdev, stay.
//  3. The guest moves: package migrate, with a roll-back of its own.
//  4. The destination's devices are plugged in, and the guest runs meanwhile.
//
// If a step up to 3 fails, or the context ends, those before it are undone, the
// newest first, and last the step itself, which may be half done. Undone means:
// the source has the device again, of the same model, at the same place, with
// the same options. A roll-back has limits of time of its own.
//
// There is no way back from 4: the guest runs on the destination already, and is
// worth more there than a device. A device that cannot be plugged in does not
// keep the others from it; Plug is for trying again. Nor is there one when it is
// not known who runs the guest (migrate.ErrUnknownOutcome): the source is
// stopped then, and gets nothing.
//
// # A guest that does not answer
//
// QEMU cannot take back what it asked of a guest. Whoever waits for the answer,
// be it the step or its roll-back, waits until the same instant. A device that
// is still there then may be let go of later: ErrPending says so.
//
// # What comes back
//
// QEMU does not tell with which options a device was made, only what became of
// them. So the caller gives them, as he gave them to -device, and they are held
// against what QEMU does tell: model, back end, MAC, bus and address. What of
// the last three was left to QEMU is asked for, so that the device comes back to
// its place.
//
// The package must never know what the devices are, nor what runs in the guest.
package hotplug
