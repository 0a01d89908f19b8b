// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package config

// UpdateName is by what the program is known that has a new version prove itself.
const UpdateName = "update"

// Update says when a new version of the image has proved itself. It means something to a
// guest that was booted from a slot, see [Config.Slot].
type Update struct {
	// Settle is for how long, in seconds, all must be as it should be.
	Settle int `json:"settle_s,omitempty"`
	// Timeout is within how many seconds of the kernel's start it must have been.
	Timeout int `json:"timeout_s,omitempty"`
}

// The times of an update that names none, in seconds, and the longest of both.
const (
	DefaultUpdateSettle  = 10
	DefaultUpdateTimeout = 300
	maxUpdateTime        = 24 * 60 * 60
)

func (u *Update) setDefaults() {
	if u.Settle == 0 {
		u.Settle = DefaultUpdateSettle
	}
	if u.Timeout == 0 {
		u.Timeout = DefaultUpdateTimeout
	}
}

func (k *checker) update(u Update) {
	for _, f := range []struct {
		field string
		value int
	}{{"update.settle_s", u.Settle}, {"update.timeout_s", u.Timeout}} {
		if f.value < 0 || f.value > maxUpdateTime {
			k.fail(f.field, "", "%d: want 1 to %d", f.value, maxUpdateTime)
		}
	}
	if u.Settle >= u.Timeout {
		k.fail("update.timeout_s", "", "%d: want more than update.settle_s, %d", u.Timeout, u.Settle)
	}
}
