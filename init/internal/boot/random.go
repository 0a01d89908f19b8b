// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package boot

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// SeedRandom waits until the kernel's random numbers are good, and by waiting
// makes them so: on a processor without RDRAND only a blocking getrandom(2)
// lets the kernel gather jitter (try_to_generate_entropy in
// drivers/char/random.c). Programs that only poll for random numbers, DHCP
// clients among them, would poll for minutes.
func SeedRandom() error {
	for {
		_, err := unix.Getrandom(make([]byte, 1), 0)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("random numbers: %w", err)
		}
	}
}
