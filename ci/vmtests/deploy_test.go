// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/image/machine"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

const publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f ann"

// TestDeploy boots one image with a document from each place that QEMU has, and reads
// back in the guest what became of them. Then the guest moves, with its volume and its
// VLAN.
func TestDeploy(t *testing.T) {
	dir := t.TempDir()
	volume := filepath.Join(dir, "volume")
	files := map[string]string{
		filepath.Join(volume, "meta-data"): "instance-id: i-1\nlocal-hostname: from-meta-data\n",
		filepath.Join(volume, "user-data"): "#umbra-config\n[image]\nhostname = 'from-volume'\nauthorized_keys = ['" + publicKey + "']\n" +
			"[[service]]\nname = 'nemesis'\nenv = ['A=volume', 'B=volume']\n",
		filepath.Join(dir, "firmware"): "[image]\nhostname = 'from-firmware'\n[[service]]\nname = 'nemesis'\nenv = ['B=firmware']\n" +
			"exec = ['/bin/nemesis', '--told', 'by firmware']\n[[role]]\nname = 'net0'\n" +
			"network.routes = [{ to = '10.55.0.0/16', via = '" + testbed.Subnet4.Addr().String() + "' }]\n" +
			"[[role.vlan]]\nid = 42\nnetwork = { method = 'static', addresses = ['10.42.0.10/24'] }\n",
	}
	for name, text := range files {
		writeFile(t, name, text)
	}
	word := base64.StdEncoding.EncodeToString([]byte("image.hostname = 'from-cmdline'"))
	g := start(t, deployImage, e1000At2, cmdline("nemesis=told umbra.config="+word), extra(
		"-fw_cfg", machine.Document(filepath.Join(dir, "firmware")),
		"-blockdev", "driver=vvfat,node-name=volume,read-only=on,label=CIDATA,dir="+volume,
		"-device", "virtio-blk-pci,drive=volume,addr=0x8",
	))
	for _, what := range []string{
		"configuration: volume cidata on vda1: meta-data", "configuration: volume cidata on vda1: user-data",
		"configuration: fw_cfg opt/org.umbra/config", "configuration: kernel command line umbra.config",
		`told: host from-cmdline, arguments \["--told" "by firmware"\], A=volume B=firmware, keys "` + publicKey + `\\n"`,
		`told: net0.42 is VLAN 42 of net0 with \[10.42.0.10/24`,
		"told: routes .*10.55.0.0/16 via " + testbed.Subnet4.Addr().String(),
	} {
		g.waitConsole(what)
	}
	st, err := g.status()
	if err != nil || st.Hostname != "from-cmdline" || len(st.Faults) > 0 {
		t.Errorf("status of host %q, faults %q, %v", st.Hostname, st.Faults, err)
	}
	g.traffic()
	g.move(e1000At5)
	g.lossless(g.recovered(1))
	g.traffic()
	g.unharmed()
}

// TestDeployRefused boots a guest with a document that has a fault, on a CD. Its role
// comes up as the image has it, no service is started, and whoever asks is told why.
func TestDeployRefused(t *testing.T) {
	g := boot(t, deployImage, nil, []rig.NIC{e1000At2}, cmdline("nemesis=told"), extra(
		"-drive", "if=none,id=cd,media=cdrom,format=raw,file="+noCloud(t, map[string]string{
			"user-data": "#umbra-config\n[[role]]\nname = 'net0'\nmac = '52:54:00:00:00:99'\nnetwork.gatway = '10.0.0.1'\n",
		}),
		"-device", "ide-cd,drive=cd,bus=ide.1",
	))
	const fault = "volume cidata on sr0: user-data: line 5: role[0].network.gatway: no such key"
	st := g.waitRole("passive", func(r ctl.RoleStatus) bool { return r.Mode == ctl.ModePassive && r.Device != "" })
	if st.MAC != rig.GuestMAC {
		t.Errorf("the role has MAC %s: that is of a document that was refused", st.MAC)
	}
	g.waitConsole("configuration refused: " + strings.NewReplacer("[", `\[`, "]", `\]`).Replace(fault))
	g.waitConsole("NO SERVICE IS STARTED")
	g.waitConsole("10.99.0.* by DHCP") // a service that needs the role could start now
	status, err := g.status()
	if err != nil || len(status.Faults) != 1 || status.Faults[0] != fault {
		t.Errorf("faults %q, %v; want %q", status.Faults, err, fault)
	}
	if g.rec.says("told: ") {
		t.Error("a service was started")
	}
}

func extra(args ...string) option {
	return func(s *setup) { s.Extra = append(s.Extra, args...) }
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// noCloud makes a CD image of files, labelled as NoCloud wants it.
func noCloud(t *testing.T, files map[string]string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "cidata.iso")
	if err := makeISO(name, files); err != nil {
		t.Fatalf("make a CD image: %v", err)
	}
	return name
}

func makeISO(name string, files map[string]string) error {
	const size = 1 << 20
	disk, err := file.CreateFromPath(name, size)
	if err != nil {
		return err
	}
	defer disk.Close()
	fs, err := iso9660.Create(disk, size, 0, 2048, "")
	if err != nil {
		return err
	}
	defer fs.Close()
	for path, text := range files {
		f, err := fs.OpenFile(path, os.O_CREATE|os.O_RDWR)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprint(f, text); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return fs.Finalize(iso9660.FinalizeOptions{RockRidge: true, VolumeIdentifier: "cidata"})
}
