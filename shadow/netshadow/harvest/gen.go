// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package harvest

// The object is committed, so that clang is needed only to change the programs.
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target amd64 -go-package harvest -no-global-types -cflags "-O2 -mcpu=v3 -g -Wall -Werror -I/usr/include" -output-stem programs programs bpf/harvest.c
