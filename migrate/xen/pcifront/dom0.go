// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package pcifront

import (
	"errors"

	"github.com/umbra-vm/umbra/drivers/xenstore"
	"github.com/umbra-vm/umbra/migrate/xen/privcmd"
)

// Open opens what this dom0 has, and returns what closes it. Its error matches
// [privcmd.ErrNoDom0] or [xenstore.ErrNoXen].
func Open() (d Dom0, stop func() error, err error) {
	m, err := privcmd.Open()
	if err != nil {
		return d, nil, err
	}
	s, err := xenstore.Open()
	if err != nil {
		return d, nil, errors.Join(err, m.Close())
	}
	return Dom0{m, s}, func() error { return errors.Join(s.Close(), m.Close()) }, nil
}
