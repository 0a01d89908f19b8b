// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package journal is what a killed agent leaves to its successor: one
// append-only file per role, of the operations of its log, of how far a
// recovery got, and of whatever else a class must know again.
//
// It must never know what any of that means, nor touch a device. What it
// promises:
//
//   - When a call that records something has returned nil, every later Open
//     gives it back.
//   - Killed at any instant, within a write too, it opens to the records whose
//     calls had returned, and perhaps the one that was being written: never to
//     a part of a record, never to a later one without an earlier one.
//   - A file that is damaged anywhere but at its end is refused, not guessed at.
//   - Its size follows the state, not the history.
//
// One process at a time may have a role's journal open. The agent keeps it in
// /run, which outlives the agent and not the machine; the file is synced all
// the same, so that on a disk it would outlive that too.
package journal
