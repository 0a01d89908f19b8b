// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package drivers_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/umbra-vm/umbra/drivers"
)

// Every device of the machine gets its driver, as udev would give it. A device
// whose driver is not in the modules directory is no reason to stop.
func Example() {
	ctx := context.Background()
	tree, err := drivers.New()
	if err != nil {
		log.Fatal(err)
	}
	devices, err := tree.Scan(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, dev := range devices {
		dev, err := tree.Load(ctx, dev)
		if err != nil && !errors.Is(err, drivers.ErrNoDriver) {
			log.Print(err)
		}
		nics, err := tree.ClassDevices(dev, "net")
		if err != nil {
			log.Print(err)
		}
		fmt.Println(dev.Address, dev.IDs, dev.Driver, nics)
	}
}

// The hardware behind an address was exchanged while the machine was running.
// The old driver has to go before the kernel can be told to look again.
func ExampleTree_Verify() {
	ctx := context.Background()
	tree, err := drivers.New()
	if err != nil {
		log.Fatal(err)
	}
	dev, err := tree.Device(ctx, "0000:00:02.0")
	if err != nil {
		log.Fatal(err)
	}
	verdict, err := tree.Verify(ctx, dev)
	if err != nil {
		log.Fatal(err)
	}
	if verdict == drivers.Alive {
		return
	}
	fmt.Println(dev, "is", verdict)
	for _, step := range []func() error{
		func() error { return tree.Unload(ctx, dev.Module) },
		func() error { return tree.Remove(ctx, dev) },
		func() error { return tree.Rescan(ctx) },
	} {
		if err := step(); err != nil {
			log.Fatal(err)
		}
	}
	if dev, err = tree.Device(ctx, dev.Address); err != nil {
		log.Fatal(err) // errors.Is(err, drivers.ErrNoDevice): the slot is empty
	}
	if _, err = tree.Load(ctx, dev); err != nil {
		log.Fatal(err)
	}
}
