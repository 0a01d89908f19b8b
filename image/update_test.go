// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/umbra-vm/umbra/image/media"
	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/config/slot"
)

// TestADiskWithSlots looks at the disk as firmware, loader and guest do.
func TestADiskWithSlots(t *testing.T) {
	stubArchive(t)
	b := mustBuild(t, project(t, withImage(`outputs = ["uki", "disk"]`)+"\n[update]\nversion = \"1.4.2\"\nslot_mb = 20\n"), "out")
	got := sections(t, filepath.Join(b.Dir, "app.efi"))
	if got[".cmdline"] != b.Cmdline+" umbra.slot=app-1.4.2" || strings.Contains(b.Cmdline, "umbra.slot") {
		t.Errorf("command line %q of the unified kernel image, %q of the kernel", got[".cmdline"], b.Cmdline)
	}
	if !strings.Contains(got[".osrel"], "IMAGE_ID=app\nIMAGE_VERSION=1.4.2\n") {
		t.Errorf("os-release %q", got[".osrel"])
	}
	disk, err := file.OpenFromPath(filepath.Join(b.Dir, "app.raw"), true)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	table, err := gpt.Read(disk, 512, 512)
	if err != nil {
		t.Fatal(err)
	}
	p := table.Partitions[0]
	if p.Name != slot.Partition || p.GetSize() < 3*20<<20 {
		t.Errorf("partition %q of %d bytes, want room for three times 20 MiB", p.Name, p.GetSize())
	}
	fs, err := fat32.Read(disk, p.GetSize(), p.GetStart(), 512)
	if err != nil {
		t.Fatal(err)
	}
	uki, err := os.ReadFile(filepath.Join(b.Dir, "app.efi"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"/EFI/BOOT/BOOTX64.EFI": "systemd-boot", "/EFI/Linux/app-1.4.2.efi": string(uki)} {
		f, err := fs.OpenFile(name, os.O_RDONLY)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if content, err := io.ReadAll(f); err != nil || string(content) != want {
			t.Errorf("%s has another content, %v", name, err)
		}
	}
}

// TestADiskWithAPartitionForData has the tool that repairs such file systems look at it.
func TestADiskWithAPartitionForData(t *testing.T) {
	c := &Config{Image: Image{DataMB: 8, Outputs: []Output{Disk}}, Data: config.Data{Partition: "my data"}}
	var made [2][]byte
	for i := range made {
		time.Sleep(time.Duration(i) * 1100 * time.Millisecond) // a second is what its dates count in
		parts, err := c.dataPartition(t.Context(), &parts{work: t.TempDir()}, "id")
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("/sbin/e2fsck", "-f", "-n", parts[0].Source).CombinedOutput(); err != nil {
			t.Errorf("e2fsck: %v\n%s", err, out)
		}
		if made[i], err = os.ReadFile(parts[0].Source); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(made[0], made[1]) {
		t.Error("the second time it has other bytes")
	}
	esp, data, disk := filepath.Join(t.TempDir(), "esp"), filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "disk")
	for name, content := range map[string][]byte{esp: []byte("program"), data: made[0]} {
		if err := os.WriteFile(name, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := media.WriteDisk(disk, media.Program(esp), nil, "id", media.Partition{Name: "my data", Source: data}); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	b, err := file.OpenFromPath(disk, true)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	table, err := gpt.Read(b, 512, 512)
	if err != nil {
		t.Fatal(err)
	}
	p := table.Partitions[1]
	if p.Name != "my data" || p.Type != gpt.LinuxFilesystem || !bytes.Equal(raw[p.GetStart():p.GetStart()+p.GetSize()], made[0]) {
		t.Errorf("partition %q of type %s, or another content", p.Name, p.Type)
	}
}

func TestASlotHasRoomForItsVersion(t *testing.T) {
	c := &Config{file: "app.toml", Image: Image{Name: "app"}, Update: Update{Version: "1", SlotMB: 2}}
	uki := filepath.Join(t.TempDir(), "app.efi")
	if err := os.WriteFile(uki, make([]byte, 3<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := c.esp(uki, "loader"); err == nil || !strings.Contains(err.Error(), "update.slot_mb") {
		t.Errorf("3 MiB in a slot of 2: %v", err)
	}
	c.Update.SlotMB = 0
	if esp, err := c.esp(uki, "loader"); err != nil || esp.Room != 3*(9<<19)-3<<20 {
		t.Errorf("room %d, %v: want that of three slots, half as large again as the version", esp.Room, err)
	}
}
