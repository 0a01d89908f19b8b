// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestXLConfig(t *testing.T) {
	b := mustBuild(t, project(t, simple), "out")
	common := map[string]string{
		"name": `"app"`, "kernel": `"vmlinuz"`, "ramdisk": `"initramfs.cpio.zst"`, "memory": "256", "vcpus": "1",
		"on_reboot": `"restart"`, "on_crash": `"destroy"`,
	}
	channel := `[ "connection=pty,name=org.umbra.ctl.unused", "connection=socket,name=org.umbra.ctl,path=` + XenCtl("app") + `" ]`
	for _, tt := range []struct {
		file string
		want map[string]string // beside what all have
		pci  bool              // devices can be passed through
	}{
		{"app.xl.cfg", map[string]string{
			"type": `"hvm"`, "cmdline": `"console=ttyS0 panic=-1 quiet module.sig_enforce=1 xen_nopv"`,
			"serial": `"pty"`, "vga": `"none"`, "vnc": "0",
			"device_model_args_hvm": `[ "-device", "virtio-serial-pci,id=ctl0,addr=0x7", ` +
				`"-chardev", "socket,id=ctl,server=on,wait=off,path=` + XenCtl("app") + `", ` +
				`"-device", "virtserialport,bus=ctl0.0,nr=1,chardev=ctl,name=org.umbra.ctl" ]`,
		}, true},
		{"app.pv.xl.cfg", map[string]string{
			"type": `"pv"`, "cmdline": `"console=hvc0 panic=-1 quiet module.sig_enforce=1"`, "channel": channel,
		}, true},
		{"app.pvh.xl.cfg", map[string]string{
			"type": `"pvh"`, "cmdline": `"console=hvc0 panic=-1 quiet module.sig_enforce=1"`, "channel": channel,
		}, false},
	} {
		t.Run(tt.file, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(b.Dir, tt.file))
			if err != nil {
				t.Fatal(err)
			}
			got := make(map[string]string)
			for line := range strings.Lines(string(text)) {
				if key, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
					got[strings.TrimSpace(key)] = strings.TrimSpace(value)
				}
			}
			maps.Copy(tt.want, common)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if !strings.Contains(string(text), "xl create -c "+tt.file) {
				t.Error("the file does not say how it is used")
			}
			if !strings.Contains(string(text), "no xen-netfront") {
				t.Error("nothing says that the image lacks the driver of a vif")
			}
			if strings.Contains(string(text), "#pci =") != tt.pci {
				t.Errorf("the line for devices is there: %t, want %t", !tt.pci, tt.pci)
			}
			if pv := tt.want["type"] == `"pv"`; strings.Contains(string(text), "#passthrough =") != pv {
				t.Errorf("the lines for devices that come later are there: %t, want %t", !pv, pv)
			}
		})
	}
}
