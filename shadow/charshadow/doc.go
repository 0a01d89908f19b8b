// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package charshadow is the shadow of every device that has no class of its
// own: it keeps the device's settings across a change of hardware, and nothing
// else.
//
// What it keeps are the parameters of the device's modules and the settings in
// its sysfs directory that are listed in this package. There is no proxy: what
// an application had open of the old device (a node in /dev, a mapping) is lost
// with it, and the application must open it again.
//
// The package must never know what a setting does, nor write to a file that is
// not a setting: much of what can be written in sysfs is an action.
package charshadow
