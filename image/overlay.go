// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"fmt"
	"os"

	"github.com/umbra-vm/umbra/init/config/overlay"
)

// CheckOverlay checks a document for deploy time as far as that can be done without the
// image: that its keys exist, and its values are of the right types.
func CheckOverlay(name string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	_, err = overlay.Parse(name, text)
	return err
}
