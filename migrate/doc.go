// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package migrate moves a running guest from one QEMU to another which does not
// have the same direct-access devices.
//
// It drives both by QMP and stands between them with the relay of
// migrate/stream, which leaves the state of those devices out.
//
// # Who may run the guest
//
// At every instant at most one of the two QEMUs may run the guest, and after
// any failure exactly one should. Run holds to that as follows.
//
//  1. The destination is told "stop" while it still waits for the migration.
//     From then on (qmp_stop in QEMU's monitor/qmp-cmds.c) it will load the
//     guest but not start it, whatever arrives. With the capability
//     late-block-activate it leaves the disks to the source for as long.
//  2. The source sends; RAM goes through, device state is kept back until the
//     source has finished. If the source resumes the guest by itself, because
//     the stream broke or somebody cancelled, nothing has happened to the guest
//     but time.
//  3. All of the device state is validated and handed over, then the source
//     must be stopped for good ("postmigrate"), and only then the end mark
//     follows. The destination loads, and is paused.
//  4. The point of no return is the command "cont" to the destination.
//
// Whatever fails before 4 ends in a roll-back: the relay is cut, the migration
// cancelled, and the source told to go on, its devices as they were. If "cont"
// was refused, that is still before the point of no return. If its answer is
// lost, the destination may run the guest or may have done so for a moment, and
// Run returns ErrUnknownOutcome and leaves the source stopped: the caller must
// make sure that the destination is dead before the source may go on.
//
// If the process that called Run is killed, the same holds, but for the
// roll-back: a source that was still sending goes on by itself; one that had
// finished ("postmigrate") stays stopped beside a destination that is paused,
// and waits for somebody to decide. Only in the instant of the point of no
// return has that somebody to ask the destination first.
//
// Run never ends either QEMU. After success the source stays behind, stopped;
// after failure the destination does, unable to start: both are the caller's to
// quit.
//
// The package must never know what runs in the guest, nor how the machines were
// made.
package migrate
