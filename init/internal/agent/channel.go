// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package agent

import (
	"errors"
	"slices"

	"github.com/umbra-vm/umbra/drivers/xenstore"
)

// channels has the consoles of a Xen guest but the first; those with a name are channels
// (docs/misc/channel.txt of Xen).
const channels = "device/console"

// channel returns the terminal that is the channel of that name, "" where there is none.
func channel(open func() (*xenstore.Conn, error), name string) (string, error) {
	c, err := open()
	if errors.Is(err, xenstore.ErrNoXen) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer c.Close()
	ids, err := c.List(channels)
	if errors.Is(err, xenstore.ErrNoEntry) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	slices.Sort(ids)
	for _, id := range ids {
		got, err := c.Read(channels + "/" + id + "/name")
		if err != nil && !errors.Is(err, xenstore.ErrNoEntry) {
			return "", err
		}
		if got == name {
			// The kernel numbers its terminals as the store does its consoles.
			return "/dev/hvc" + id, nil
		}
	}
	return "", nil
}
