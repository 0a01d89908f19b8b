// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xenlab

import (
	"context"
	"fmt"
)

// Attach gives the domain one more device.
func (d *Domain) Attach(ctx context.Context, p Passed) error {
	_, err := d.Host.Run(ctx, fmt.Sprintf("xl pci-attach %s %s", d.Name, p))
	return err
}

// Detach asks the domain to give a device back, and returns when it has.
func (d *Domain) Detach(ctx context.Context, p Passed) error {
	_, err := d.Host.Run(ctx, fmt.Sprintf("xl pci-detach %s %s", d.Name, p.Device))
	return err
}
