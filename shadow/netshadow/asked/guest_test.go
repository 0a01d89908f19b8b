// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

//go:build guest

package asked

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// patience bounds how long the test waits for what it did itself.
const patience = 20 * time.Second

// nicOf returns the NIC of a driver.
func nicOf(t *testing.T, driver string) string {
	t.Helper()
	for _, nic := range strings.Split(os.Getenv("UMBRA_GUEST_NICS"), ",") {
		if link, err := os.Readlink(filepath.Join("/sys/class/net", nic, "device/driver")); err == nil && filepath.Base(link) == driver {
			return nic
		}
	}
	t.Fatalf("UMBRA_GUEST_NICS names no %s", driver)
	return ""
}

func output(args ...string) (string, error) {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), err
}

func run(args ...string) error {
	_, err := output(args...)
	return err
}

// stamp asks for time stamps of all that a NIC receives.
func stamp(nic string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.IoctlSetHwTstamp(fd, nic, &unix.HwTstampConfig{Rx_filter: unix.HWTSTAMP_FILTER_ALL})
}

// TestIntegrationRequests asks interfaces for things. What was done is heard, and neither
// what was only read nor what was refused: after each comes an address, for order.
func TestIntegrationRequests(t *testing.T) {
	w, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	requests := make(chan Request)
	go w.Run(t.Context(), func(r Request) {
		select {
		case requests <- r:
		case <-t.Context().Done():
		}
	})
	fence, err := net.InterfaceByName(nicOf(t, "e1000"))
	if err != nil {
		t.Fatal(err)
	}
	virtio, e1000e := nicOf(t, "virtio_net"), nicOf(t, "e1000e")
	call := Request{}
	for i, tt := range []struct {
		rule  string
		do    func() error
		heard []Request
	}{
		{"a key of receive hashing", func() error {
			return run("ethtool", "-X", virtio, "hkey", strings.TrimSuffix(strings.Repeat("5a:", 40), ":"))
		}, []Request{call}},
		{"the fields that are hashed", func() error {
			return run("ethtool", "-N", virtio, "rx-flow-hash", "tcp4", "sd")
		}, []Request{call}},
		{"time stamps", func() error { return stamp(e1000e) }, []Request{call}},
		{"what is announced anyway", func() error { return run("ip", "link", "set", virtio, "mtu", "1400") }, nil},
		{"a question", func() error { return run("ethtool", "-x", virtio) }, nil},
		{"a rule, which the driver does not take", func() error {
			// ethtool says so, and ends as if it did.
			out, err := output("ethtool", "-N", e1000e, "flow-type", "ether", "proto", "0x88f7", "action", "0", "loc", "1")
			if !strings.Contains(out, "Operation not supported") {
				return fmt.Errorf("ethtool says %q: %v", out, err)
			}
			return nil
		}, nil},
		{"time stamps that there are none of", func() error {
			if stamp(fence.Name) == nil {
				return errors.New("there are")
			}
			return nil
		}, nil},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			if err := tt.do(); err != nil {
				t.Fatal(err)
			}
			mac := net.HardwareAddr{0x52, 0x54, 0, 0, 0x99, byte(i)}
			if err := run("ip", "link", "set", fence.Name, "address", mac.String()); err != nil {
				t.Fatal(err)
			}
			want := append(tt.heard, Request{Index: fence.Index, MAC: mac})
			var got []Request
			for timeout := time.After(patience); len(got) == 0 || got[len(got)-1].Index == 0; {
				select {
				case r := <-requests:
					got = append(got, r)
				case <-timeout:
					t.Fatalf("heard %v, and no end", got)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
