// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/google/gopacket/pcapgo"
)

// errNotOnWire says that a frame that must be there was not captured.
var errNotOnWire = errors.New("not in the capture")

// A wire is what QEMU saw a NIC send. Its times are the guest's: QEMU's
// filter-dump stamps frames with the virtual clock (net/dump.c), which stands still
// while the guest does.
type wire struct {
	resumed time.Time // the guest went on
	first   time.Time // the first frame with the role's MAC
}

// readWire reads the capture of a NIC to which a guest has come. When the guest
// goes on is told by the emulator, which announces the NIC by its own address just
// before (migration/migration.c, process_incoming_migration_bh).
func readWire(file string, nic, role net.HardwareAddr) (wire, error) {
	f, err := os.Open(file)
	if err != nil {
		return wire{}, err
	}
	defer f.Close()
	w, err := parseWire(f, nic, role)
	if err != nil {
		return wire{}, fmt.Errorf("capture %s: %w", file, err)
	}
	return w, nil
}

func parseWire(in io.Reader, nic, role net.HardwareAddr) (w wire, err error) {
	r, err := pcapgo.NewReader(in)
	if err != nil {
		return w, err
	}
	for w.first.IsZero() {
		data, ci, err := r.ReadPacketData()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF): // QEMU writes on
			return w, fmt.Errorf("%w: a frame from %s after one from %s", errNotOnWire, role, nic)
		case err != nil:
			return w, err
		case len(data) < 14:
		case w.resumed.IsZero() && bytes.Equal(data[6:12], nic):
			w.resumed = ci.Timestamp
		case !w.resumed.IsZero() && bytes.Equal(data[6:12], role):
			w.first = ci.Timestamp
		}
	}
	return w, nil
}
