// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package privcmd

import (
	"errors"
	"testing"
	"unsafe"
)

// The kernel tells a request by its number, which has the size of what it takes.
func TestRequestsHaveTheSizeOfTheirArguments(t *testing.T) {
	for _, r := range []struct {
		name    string
		request uintptr
		size    uintptr
	}{
		{"hypercall", reqHypercall, unsafe.Sizeof(hypercall{})},
		{"map frames", reqMapBatch, unsafe.Sizeof(mapBatch{})},
		{"map a resource", reqMapResource, unsafe.Sizeof(mapResource{})},
		{"map a grant", reqMapGrant, unsafe.Sizeof(mapGrant{})},
	} {
		if got := r.request >> 16; got != r.size {
			t.Errorf("%s: the request says %d bytes, the argument has %d", r.name, got, r.size)
		}
	}
}

func TestOpenElsewhere(t *testing.T) {
	c, err := Open()
	if err == nil { // in a dom0
		err = c.Close()
	} else if errors.Is(err, ErrNoDom0) {
		return
	}
	if err != nil {
		t.Errorf("error %v, want ErrNoDom0", err)
	}
}
