// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package power

import (
	"encoding/binary"
	"errors"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

func TestFromSignal(t *testing.T) {
	for _, tt := range []struct {
		name string
		sig  syscall.Signal
		want Action
		ok   bool
	}{
		{"TERM powers off", unix.SIGTERM, PowerOff, true},
		{"PWR, the power supply, powers off", unix.SIGPWR, PowerOff, true},
		{"USR2, busybox poweroff, powers off", unix.SIGUSR2, PowerOff, true},
		{"INT, Ctrl-Alt-Del and Xen's reboot, reboots", unix.SIGINT, Reboot, true},
		{"USR1, busybox halt, halts", unix.SIGUSR1, Halt, true},
		{"RTMIN+3 halts", 37, Halt, true},
		{"RTMIN+4 powers off", 38, PowerOff, true},
		{"RTMIN+5 reboots", 39, Reboot, true},
		{"HUP asks for nothing", unix.SIGHUP, "", false},
		{"CHLD asks for nothing", unix.SIGCHLD, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := FromSignal(tt.sig)
			if got != tt.want || ok != tt.ok {
				t.Errorf("got %q, %t; want %q, %t", got, ok, tt.want, tt.ok)
			}
		})
	}
	if got := len(Signals()); got != 8 {
		t.Errorf("%d signals are listened to, want the 8 above", got)
	}
}

// event builds what drivers/acpi/event.c sends.
func event(class, bus string, kind, data uint32) []byte {
	b := make([]byte, acpiEventLen)
	copy(b, class)
	copy(b[acpiClassLen:], bus)
	binary.NativeEndian.PutUint32(b[acpiEventLen-8:], kind)
	binary.NativeEndian.PutUint32(b[acpiEventLen-4:], data)
	return b
}

func attrs(t testing.TB, kind uint16, payload []byte) []byte {
	t.Helper()
	ae := netlink.NewAttributeEncoder()
	ae.Bytes(kind, payload)
	b, err := ae.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseACPIEvent(t *testing.T) {
	for _, tt := range []struct {
		name  string
		attrs []byte
		want  ACPIEvent
		err   error
	}{
		{"the power button", attrs(t, acpiAttrEvent, event("button/power", "LNXPWRBN:00", 0x80, 1)),
			ACPIEvent{"button/power", "LNXPWRBN:00", 0x80, 1}, nil},
		{"strings that fill their fields have no end", attrs(t, acpiAttrEvent, event("12345678901234567890", "123456789012345", 0, 0)),
			ACPIEvent{"12345678901234567890", "123456789012345", 0, 0}, nil},
		{"an event of a newer kernel may be longer", attrs(t, acpiAttrEvent, append(event("ac_adapter", "ACPI0003:00", 1, 2), 1, 2, 3, 4)),
			ACPIEvent{"ac_adapter", "ACPI0003:00", 1, 2}, nil},
		{"a shorter one is none", attrs(t, acpiAttrEvent, make([]byte, acpiEventLen-1)), ACPIEvent{}, ErrACPIEvent},
		{"another attribute is none", attrs(t, 7, event("button/power", "", 0, 0)), ACPIEvent{}, ErrACPIEvent},
		{"a cut attribute is none", []byte{255, 0, 1, 0}, ACPIEvent{}, ErrACPIEvent},
		{"nothing is none", nil, ACPIEvent{}, ErrACPIEvent},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseACPIEvent(tt.attrs)
			if !errors.Is(err, tt.err) {
				t.Errorf("error %v, want %v", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("event (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseACPIEvent(f *testing.F) {
	f.Add(attrs(f, acpiAttrEvent, event("button/power", "LNXPWRBN:00", 0x80, 1)))
	f.Add(attrs(f, acpiAttrEvent, nil))
	f.Add([]byte{4, 0, 1, 0, 3, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseACPIEvent(b)
		if err != nil && !errors.Is(err, ErrACPIEvent) {
			t.Fatal(err)
		}
		if len(e.Class) > acpiClassLen || len(e.Bus) > acpiBusLen {
			t.Fatalf("%+v", e)
		}
	})
}

func TestOnlyThePowerButtonAsks(t *testing.T) {
	for class, want := range map[string]Action{"button/power": PowerOff, "button/sleep": "", "button/lid": "", "button/powerful": "", "": ""} {
		if got, ok := (ACPIEvent{Class: class}).Asks(); got != want || ok != (want != "") {
			t.Errorf("%q asks for %q, want %q", class, got, want)
		}
	}
}

func TestUnmountable(t *testing.T) {
	mounts := `none / rootfs rw,size=1024k 0 0
devtmpfs /dev devtmpfs rw 0 0
proc /proc proc rw 0 0
/dev/vda1 /data ext4 rw 0 0
/dev/vdb1 /data/with\040space xfs rw 0 0
tmpfs /run tmpfs rw 0 0
10.0.0.1:/export /mnt/nfs\134x nfs4 rw 0 0
short line
`
	want := []string{`/mnt/nfs\x`, "/data/with space", "/data"}
	if diff := cmp.Diff(want, Unmountable(mounts)); diff != "" {
		t.Errorf("what lies on top comes first, and memory is left (-want +got):\n%s", diff)
	}
}
