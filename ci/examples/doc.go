// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package examples builds the appliances of image/examples as they are, boots them,
// uses them as their users would, and moves each to other NICs while it is in use.
//
// It sees them from outside: what they answer, and what is on the wire. Of a shadow it
// knows the timelines. The first is part of go test ./..., unless -short is given; the
// others download packages of Debian's and run with the flag -examples, or by make examples.
package examples
