// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package apptests moves a guest that runs other people's programs, unmodified,
// from Debian's packages: what they and their clients say of the moves is
// evidence that nobody here has written. The clients run in a second guest, which
// does not move. A control without the shadow shows that these witnesses would
// speak up.
//
// The tests download some 120 MB of packages and keep two guests busy for
// minutes, so go test ./... leaves them out: they run with the flag -apps, or by
// make test-apps.
//
// The test process talks to both guests as an administrator would, over ssh. It
// knows programs by what they print, and connections by what the capture has seen;
// it must know nothing of the shadow but its timelines.
package apptests
