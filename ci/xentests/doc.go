// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package xentests are tests of guests on Xen hosts, which run inside QEMU. They
// are long, and run by "make xen-test" only.
package xentests
