// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netcfg

import (
	"context"
	"errors"
	"fmt"

	"github.com/umbra-vm/umbra/init/config"
	"golang.org/x/sys/unix"
)

// newVLAN returns the worker of a VLAN, which is a part of w's role.
func (w *worker) newVLAN(v config.VLAN, metric int) *worker {
	name := v.Interface(w.role.Name)
	child := newWorker(w.daemon, config.Role{Name: name, Class: config.ClassNet, Network: v.Network}, metric)
	w.waiting[part(name)] = true
	child.announce = func(ctx context.Context, up bool) error {
		w.tell(ctx, part(name), up)
		return nil
	}
	return child
}

// addVLAN makes the interface of a VLAN, which its worker then finds. It goes with the
// interface below it. The module may be loaded later than this is tried first.
func (w *worker) addVLAN(ctx context.Context, link Link, v config.VLAN) {
	name := v.Interface(w.role.Name)
	w.retry(ctx, name+" is not there yet", func() error {
		err := w.daemon.kernel.AddVLAN(link.Index, v.ID, name)
		if errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("the kernel knows no VLANs without module 8021q (drivers.modules of the image): %w", err)
		}
		return err
	})
}
