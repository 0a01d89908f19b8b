// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"fmt"
	"os"

	"github.com/umbra-vm/umbra/init/notify"
)

// askPower asks process 1 to power off, reboot or halt, by the name it was
// called. The kernel calls /sbin/poweroff and /sbin/reboot too.
func askPower(args []string) int {
	if err := notify.NewClient("").Power(context.Background(), notify.Op(args[0])); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", args[0], err)
		return 1
	}
	return 0
}
