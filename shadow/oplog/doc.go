// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package oplog holds the state of a device as a compact log of operations in
// the terms of its class.
//
// An operation is a key and a value, written "net.mtu=9000". Keys belong to the
// class of a device (network, ...), so that what was recorded from one driver
// can be replayed on another; the package must never know a driver, nor what
// any key means. The newest operation of a key replaces the older ones: a log's
// size follows the state that it describes, not the history that led there.
//
// What a device cannot do stays in the log, marked as deferred, and is tried
// again on the next device that can.
package oplog
