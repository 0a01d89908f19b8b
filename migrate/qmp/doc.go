// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package qmp talks to the monitor of a running QEMU.
//
// It is a small client for the QEMU Machine Protocol: every command takes a
// context, every failure has a type, events reach any number of subscribers
// without ever holding up the monitor, and a QEMU that died is noticed at once
// by everybody who waits for it.
//
// The wire types are those of github.com/digitalocean/go-qemu/qmp, so that an
// Event can be handed to code written against that library. Its SocketMonitor
// is not used: it sends events down an unbuffered channel that a slow reader
// turns into a stopped monitor, drops the class of an error, cannot give up a
// command, refuses replies of more than 64 KiB and returns slices of a buffer
// which the next event overwrites.
//
// The package must never know what the commands mean: migration belongs to the
// package above, device models to nobody here.
package qmp
