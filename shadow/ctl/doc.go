// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package ctl is the public door of the shadow agent: the data it reports,
// how people read that data, and the protocol that carries it.
//
// It is the one package of the shadow that host-side code may import, so it
// must never know how a shadow works: it imports nothing of ours, and its
// types are plain data.
//
// # Protocol
//
// Both directions carry lines of at most [MaxLine] bytes, each one JSON
// object. Empty lines are ignored.
//
//	request   {"id":7,"cmd":"timeline","args":{"role":"net0"}}
//	reply     {"id":7,"ok":true,"data":...}
//	          {"id":7,"ok":false,"code":"failed","error":"no role net9"}
//	event     {"event":"recovery","data":...}
//
// Replies come in any order: a slow command does not delay a quick one. A
// request that cannot be read is answered (with its id when it could be read,
// else 0) and the connection is kept.
//
// The same protocol runs over a unix socket in the guest and over a
// virtio-serial port to the host. A port differs from a socket in one respect:
// nobody tells either side where one host's conversation ends and the next
// one's begins. A half-written request of a host that went away, or replies to
// it, may still be queued when its successor arrives. So
//
//   - a sender starts its first line with a newline, which ends whatever half
//     line is pending before it;
//   - a reader drops lines it cannot parse, and goes on at the next newline;
//   - a client starts counting its ids at a random number and drops replies
//     whose id it is not waiting for.
//
// What is left to the caller: a request whose reply was lost with a host (the
// guest moved, the agent was killed) ends by its context. Every command may be
// sent again.
package ctl
