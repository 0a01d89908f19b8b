// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package ko

import "testing"

func TestName(t *testing.T) {
	for _, tt := range []struct {
		rule, path, want string
		ok               bool
	}{
		{"the name is that of the file", "kernel/drivers/net/8139cp.ko", "8139cp", true},
		{"compression is no part of it", "/x/e1000.ko.xz", "e1000", true},
		{"dashes become underscores", "virtio-gpu.ko.zst", "virtio_gpu", true},
		{"capitals stay", "xt_LOG.ko", "xt_LOG", true},
		{"a directory's dots do not count", "a.ko/b", "", false},
		{"a module has a name", "a/.ko", "", false},
		{"other files are no modules", "modules.dep", "", false},
		{"debug files are no modules", "e1000.ko.debug", "", false},
	} {
		if got, ok := Name(tt.path); ok != tt.ok || ok && got != tt.want {
			t.Errorf("%s: Name(%q) = %q, %v", tt.rule, tt.path, got, ok)
		}
	}
}
