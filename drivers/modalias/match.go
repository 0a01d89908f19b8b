// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package modalias finds the modules that claim a device.
//
// The kernel gives every device a modalias, a line of its ids such as
// "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00"; every module carries
// patterns for the ids its drivers serve, and depmod(8) collects them in
// modules.alias. Match is the comparison of the two, Table the index that keeps
// it short on a file of tens of thousands of lines.
//
// The package knows text only: no file system, no module loader, no bus.
package modalias

import "strings"

// Match reports whether name matches pattern by the rules of fnmatch(3) with no
// flags, which is what kmod applies (libkmod-index.c): '*' stands for any text
// and '?' for any one byte, '/' included, '[...]' for a set, '[!...]' and
// '[^...]' for its complement, and a backslash takes the meaning away from the
// byte after it. path.Match differs: its '*' and '?' stop at '/', which the
// aliases of device-tree nodes contain.
//
// Bytes are compared as they are; see Normalize. A '[' that is never closed
// stands for itself. Character classes such as [:digit:] are not known: no tool
// writes them to modules.alias.
func Match(pattern, name string) bool {
	// One point to go back to is enough: when a later '*' was reached, what an
	// earlier one could still swallow the later one can swallow as well.
	star, resume := -1, 0
	p, n := 0, 0
	for n < len(name) {
		if p < len(pattern) {
			if pattern[p] == '*' {
				star, resume = p, n
				p++
				continue
			}
			if width := matchOne(pattern[p:], name[n]); width > 0 {
				p += width
				n++
				continue
			}
		}
		if star < 0 {
			return false
		}
		resume++
		p, n = star+1, resume
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// matchOne compares c with the first element of pattern, which is not empty and
// does not begin with '*'. It returns the length of that element, or 0 when c
// is not one of the bytes it stands for.
func matchOne(pattern string, c byte) int {
	switch pattern[0] {
	case '?':
		return 1
	case '[':
		if width, in, ok := matchSet(pattern, c); ok {
			if in {
				return width
			}
			return 0
		}
	case '\\':
		if len(pattern) > 1 && pattern[1] == c {
			return 2
		}
		return 0
	}
	if pattern[0] == c {
		return 1
	}
	return 0
}

// matchSet compares c with the bracket set at the start of pattern. ok is false
// when the set is never closed.
func matchSet(pattern string, c byte) (width int, in, ok bool) {
	i := 1
	negate := i < len(pattern) && (pattern[i] == '!' || pattern[i] == '^')
	if negate {
		i++
	}
	// A ']' in first place is a member (POSIX 2.13.1).
	for first := true; i < len(pattern); first = false {
		if pattern[i] == ']' && !first {
			return i + 1, in != negate, true
		}
		lo, next, valid := setByte(pattern, i)
		if !valid {
			return 0, false, false
		}
		hi := lo
		if next+1 < len(pattern) && pattern[next] == '-' && pattern[next+1] != ']' {
			if hi, next, valid = setByte(pattern, next+1); !valid {
				return 0, false, false
			}
		}
		in = in || lo <= c && c <= hi
		i = next
	}
	return 0, false, false
}

// setByte returns the set member at pattern[i] and the index behind it.
func setByte(pattern string, i int) (c byte, next int, ok bool) {
	if pattern[i] == '\\' {
		i++
	}
	if i >= len(pattern) {
		return 0, i, false
	}
	return pattern[i], i + 1, true
}

// OfDevice reports whether an alias of a module is one by which a device asks for it:
// that is "BUS:IDS", that of a protocol or a kind of interface a word. "devname:NAME" is
// a node in /dev, for which programs ask (MODULE_ALIAS_MISCDEV).
func OfDevice(alias string) bool {
	bus, _, ok := strings.Cut(alias, ":")
	return ok && bus != "devname"
}

// Normalize returns s with every '-' outside a bracket set replaced by '_'.
//
// Module names are spelt either way: the file is virtio-gpu.ko, the kernel
// calls the module virtio_gpu. kmod compares names, aliases and patterns in the
// underscore form (shared/util.c, alias_normalize), and so does this package.
func Normalize(s string) string {
	if !strings.Contains(s, "-") {
		return s
	}
	b := []byte(s)
	inSet := false
	for i, c := range b {
		switch {
		case c == '[' && strings.IndexByte(s[i:], ']') > 0:
			inSet = true
		case c == ']':
			inSet = false
		case c == '-' && !inSet:
			b[i] = '_'
		}
	}
	return string(b)
}
