// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package traffic

import "slices"

// Order sorts objects so that each comes after what it needs: a class after its
// queueing discipline and the class above it, a queueing discipline after the class
// that it hangs on, filters last, of which tables come before what is in them.
func Order(objects []Object) {
	d := make(depths, len(objects))
	for _, o := range objects {
		if o.Kind != Filter {
			d[o.Handle] = o
		}
	}
	place := func(o Object) []int {
		if o.Kind != Filter {
			return []int{0, d.of(o)}
		}
		inTable := 1
		if o.isTable() {
			inTable = 0
		}
		return []int{1, int(o.Chain), int(o.Priority), inTable}
	}
	slices.SortStableFunc(objects, func(a, b Object) int { return slices.Compare(place(a), place(b)) })
}

// depths are the queueing disciplines and classes of an interface by handle.
type depths map[uint32]Object

// maxDepth bounds a walk through handles that may come from a journal. The kernel
// allows classes of 8 levels (TC_HTB_MAXDEPTH), and disciplines below them.
const maxDepth = 64

// of is how many objects are above one.
func (d depths) of(o Object) (n int) {
	for ; n < maxDepth; n++ {
		above := o.Parent
		if o.Kind == Class && (above == root || above == 0) {
			above = o.Handle &^ 0xffff
		}
		next, ok := d[above]
		if !ok && above&0xffff != 0 {
			// The fixed classes of some disciplines are no objects.
			next, ok = d[above&^0xffff]
		}
		if !ok {
			return n
		}
		o = next
	}
	return n
}
