// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package kerneltest

import (
	"testing"

	"github.com/umbra-vm/umbra/drivers/modinfo"
)

func TestUnsigned(t *testing.T) {
	for name, tt := range map[string]struct {
		module, want string
		ok           bool
	}{
		"the signature and what tells its size go": {"MODULE" + "sig" + "????????\x00\x00\x00\x03" + modinfo.SignatureMark, "MODULE", true},
		"none":                              {"MODULE", "", false},
		"a mark alone":                      {"MODULE" + modinfo.SignatureMark, "", false},
		"a signature larger than the whole": {"MODULE" + "????????\x80\x00\x00\x00" + modinfo.SignatureMark, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got, ok := Unsigned([]byte(tt.module)); string(got) != tt.want || ok != tt.ok {
				t.Errorf("%q, %t", got, ok)
			}
		})
	}
}
