// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

//go:build guest

// These tests run as root in a guest with a PCI bus and a VM generation id.
package signals_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/shadow/signals"
)

func TestGuestUevents(t *testing.T) {
	devices, err := filepath.Glob("/sys/bus/pci/devices/*")
	if err != nil || len(devices) == 0 {
		t.Fatalf("no PCI devices: %v", err)
	}
	u, err := signals.NewUevents(nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	before := signals.Now()
	for _, d := range devices {
		if err := os.WriteFile(filepath.Join(d, "uevent"), []byte("change"), 0); err != nil {
			t.Fatal(err)
		}
	}
	c := signals.Merge(ctx, nil, u)
	for _, d := range devices {
		m, ok := <-c
		if !ok {
			t.Fatalf("no signal of %s", d)
		}
		if m.Source != signals.Uevent || m.Device != filepath.Base(d) || m.Detail != "change" || m.At < before {
			t.Errorf("got %+v of %s", m, d)
		}
	}
}

func TestGuestUeventsOverflow(t *testing.T) {
	devices, _ := filepath.Glob("/sys/bus/pci/devices/*")
	u, err := signals.NewUevents(nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for range 20000 { // nobody reads
		if err := os.WriteFile(filepath.Join(devices[0], "uevent"), []byte("change"), 0); err != nil {
			t.Fatal(err)
		}
	}
	for m := range signals.Merge(ctx, nil, u) {
		if m.Detail == signals.Resync {
			return
		}
	}
	t.Error("events were lost without a signal")
}

// TestGuestGeneration attaches the program. That it wakes us takes a host that changes
// the generation id, so a guest cannot test it alone.
func TestGuestGeneration(t *testing.T) {
	g, err := signals.NewGenerationID()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c := signals.Merge(ctx, nil, g)
	cancel()
	if m, ok := <-c; ok {
		t.Errorf("got %+v, though nothing happened", m)
	}
	bound, _ := filepath.Glob("/sys/bus/acpi/drivers/vmgenid/*:*")
	if len(bound) == 0 {
		t.Fatal("no device is bound")
	}
	if err := os.WriteFile("/sys/bus/acpi/drivers/vmgenid/unbind", []byte(filepath.Base(bound[0])), 0); err != nil {
		t.Fatal(err)
	}
	defer os.WriteFile("/sys/bus/acpi/drivers/vmgenid/bind", []byte(filepath.Base(bound[0])), 0)
	if _, err := signals.NewGenerationID(); !errors.Is(err, signals.ErrUnavailable) {
		t.Errorf("without a device: %v, want ErrUnavailable", err)
	}
}
