// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package archtest holds the tree to what its documents say: who may import
// whom, who may load a driver, that every promise names a test that exists, and
// that the documents speak of commands, keys and files that are there.
//
// It consists of tests only. It reads source and documents as text and must
// never depend on what umbra does.
package archtest
