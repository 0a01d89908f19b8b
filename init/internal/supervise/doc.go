// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package supervise starts programs, starts them again when they end, and
// reaps every process whose parent is gone, as PID 1 must.
//
// What to do is decided by pure functions ([Decide], [Missing], [StopOrder]);
// who ends is learnt by one [Reaper], the only caller of wait4(2) in the
// process; a [Supervisor] brings both together. It must never know what a
// program does, what a role is beyond its name, or how the machine goes off.
package supervise
