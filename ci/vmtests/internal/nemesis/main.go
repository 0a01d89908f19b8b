// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Command nemesis does to a guest, from within, what its users and its bad luck
// do: see the words of the kernel's command line that begin with "nemesis=".
package main

func main() { select {} }
