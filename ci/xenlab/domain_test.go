// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xenlab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/umbra-vm/umbra/image"
)

// settings reads a file as xl does: of two settings of a name it takes the last.
func settings(text string) map[string]string {
	values := make(map[string]string)
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			values[strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
	return values
}

func TestConfigIsTheBundlesWithWhatIsDifferentHere(t *testing.T) {
	dir := t.TempDir()
	b := &image.Bundle{Dir: dir}
	b.Name, b.Initramfs, b.Cmdline = "app", "initramfs.cpio.zst", "console=ttyS0"
	const written = "name = \"app\"\ntype = \"hvm\"\nkernel = \"vmlinuz\"\nramdisk = \"initramfs.cpio.zst\"\ncmdline = \"console=ttyS0 xen_nopv\"\nserial = \"pty\"\n#pci = [ ]\n"
	if err := os.WriteFile(filepath.Join(dir, "app.xl.cfg"), []byte(written), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name     string
		opts     DomainOptions
		pci, may string
		cmdline  string
	}{
		{"a guest without devices", DomainOptions{}, "[  ]", "", "xen_nopv"},
		{"devices have a slot in the guest", DomainOptions{PCI: []Passed{{"0000:00:04.0", 6}, {"0000:00:05.0", 7}}},
			`[ "0000:00:04.0@6", "0000:00:05.0@7" ]`, "", "xen_nopv"},
		{"a guest may be migrated with its devices", DomainOptions{Leaves: true}, "[  ]", "1", "xen_nopv"},
		{"a guest may have front ends", DomainOptions{Aware: true}, "[  ]", "", "sysrq_always_enabled"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.opts.Name, tt.opts.Bundle = "guest1", b
			text, err := tt.opts.config(2500011)
			if err != nil {
				t.Fatal(err)
			}
			got := settings(text)
			if !strings.Contains(got["device_model_args_hvm"], image.XenCtl("guest1")) {
				t.Errorf("the control port is %s", got["device_model_args_hvm"])
			}
			delete(got, "device_model_args_hvm")
			want := map[string]string{
				"name": `"guest1"`, "type": `"hvm"`, "kernel": `"/image/setup"`,
				"cmdline": `"console=ttyS0 ` + tt.cmdline + ` tsc=reliable tsc_early_khz=2500011"`, "tsc_mode": `"native"`,
				"pci": tt.pci, "serial": `"file:/run/guest1.console"`,
			}
			if tt.may != "" {
				want["migrate_devices"] = tt.may
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("config (-want +got):\n%s", diff)
			}
		})
	}
}

func TestConfigOfAGuestThatIsNoHVMGuest(t *testing.T) {
	b := &image.Bundle{Dir: t.TempDir()}
	b.Name, b.Initramfs, b.Cmdline = "app", "initramfs.cpio.zst", "console=ttyS0"
	const written = "name = \"app\"\ntype = \"pv\"\nkernel = \"vmlinuz\"\nramdisk = \"initramfs.cpio.zst\"\n" +
		"cmdline = \"console=hvc0\"\nchannel = [ \"of app\" ]\n"
	if err := os.WriteFile(filepath.Join(b.Dir, "app.pv.xl.cfg"), []byte(written), 0o644); err != nil {
		t.Fatal(err)
	}
	opts := DomainOptions{Name: "guest1", Bundle: b, Kind: image.XenPV, MAC: "52:54:00:00:00:01", PCI: []Passed{{Device: "0000:00:04.0"}}, Plug: true}
	text, err := opts.config(2500011)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"name": `"guest1"`, "type": `"pv"`, "kernel": `"/image/vmlinuz"`, "ramdisk": `"/image/initramfs"`,
		"cmdline": `"console=hvc0 sysrq_always_enabled"`, "tsc_mode": `"native"`,
		"pci": `[ "0000:00:04.0" ]`, "passthrough": `"enabled"`, "e820_host": "1",
		"vif":     `[ "type=vif,mac=52:54:00:00:00:01,bridge=xenbr0" ]`,
		"channel": `[ "connection=pty,name=org.umbra.ctl.unused", "connection=socket,name=org.umbra.ctl,path=/run/xen/umbra-guest1.ctl" ]`,
	}
	if diff := cmp.Diff(want, settings(text)); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
}
