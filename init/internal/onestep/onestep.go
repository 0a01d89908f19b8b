// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package onestep writes files that others read at any time. It must never know what is in
// them.
package onestep

import (
	"io/fs"
	"os"
)

// Replace writes a file so that a reader sees the old content or the new. Nothing is
// synced: it is for files that do not outlive the boot. There may be one writer at a time.
func Replace(name string, content []byte, perm fs.FileMode) error {
	tmp := name + ".new"
	if err := os.WriteFile(tmp, content, perm); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}
