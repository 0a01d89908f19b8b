// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package witness

// windowBits is how far back a late or repeated datagram is still recognised:
// more than five minutes at one datagram every 5 ms.
const windowBits = 1 << 16

// maxRanges bounds the list of missing ranges that are remembered for a
// reader's sake; the count of missing datagrams does not depend on it.
const maxRanges = 64

// A Range of datagram numbers, both ends included.
type Range struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

// window tells new from repeated and late datagrams in bounded memory.
type window struct {
	bits [windowBits / 64]uint64
	base uint64 // lowest number that has a bit
	next uint64 // one above the highest number seen

	unique     uint64
	duplicated uint64
	reordered  uint64 // new, but with a higher number before it
	stale      uint64 // below the window: new or repeated, nobody knows

	missing []Range // below the window
}

func (w *window) get(seq uint64) bool { return w.bits[seq%windowBits/64]>>(seq%64)&1 != 0 }

func (w *window) add(seq uint64) {
	if seq < w.base {
		w.stale++
		return
	}
	if seq-w.base >= windowBits {
		w.slide(seq - windowBits + 1)
	}
	if w.get(seq) {
		w.duplicated++
		return
	}
	w.bits[seq%windowBits/64] |= 1 << (seq % 64)
	w.unique++
	if seq < w.next {
		w.reordered++
	} else {
		w.next = seq + 1
	}
}

// slide moves the window up to base, noting what it leaves behind unseen.
func (w *window) slide(base uint64) {
	end := min(base, w.base+windowBits)
	for s := w.base; s < end; s++ {
		if !w.get(s) {
			w.missing = appendRange(w.missing, s, s)
		}
		w.bits[s%windowBits/64] &^= 1 << (s % 64)
	}
	if end < base {
		w.missing = appendRange(w.missing, end, base-1)
	}
	w.base = base
}

// absent lists the numbers below sent that were not seen, first maxRanges
// ranges of them.
func (w *window) absent(sent uint64) []Range {
	out := append([]Range(nil), w.missing...)
	for s := w.base; s < min(sent, w.next); s++ {
		if !w.get(s) {
			out = appendRange(out, s, s)
		}
	}
	if sent > w.next {
		out = appendRange(out, max(w.next, w.base), sent-1)
	}
	return out
}

func appendRange(r []Range, first, last uint64) []Range {
	if n := len(r); n > 0 && r[n-1].Last+1 == first {
		r[n-1].Last = last
		return r
	}
	if len(r) < maxRanges {
		r = append(r, Range{first, last})
	}
	return r
}
