// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package deploy

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/config/overlay"
)

// iso is the start of an ISO 9660 file system, as far as it is looked at.
func iso(label string) []byte {
	b := make([]byte, 17*2048)
	pvd := b[16*2048:]
	copy(pvd, "\x01CD001\x01")
	copy(pvd[40:], label+strings.Repeat(" ", 32-len(label)))
	return b
}

// fat is the first sector of a FAT of so many bits.
func fat(bits, label string) []byte {
	b := make([]byte, 512)
	at := 38
	if bits == "32" {
		at = 66
	}
	b[at] = 0x29
	copy(b[at+5:], label+strings.Repeat(" ", 11-len(label)))
	copy(b[at+16:], "FAT"+bits+"   ")
	b[510], b[511] = 0x55, 0xaa
	return b
}

func TestIdentify(t *testing.T) {
	unsigned := fat("16", "cidata")
	unsigned[38] = 0
	for _, tt := range []struct {
		rule  string
		start []byte
		want  volume
	}{
		{"ISO 9660", iso("cidata"), volume{"iso9660", "cidata"}},
		{"its label in capitals", iso("CIDATA"), volume{"iso9660", "cidata"}},
		{"FAT16", fat("16", "CIDATA"), volume{"vfat", "cidata"}},
		{"FAT12", fat("12", "config-2"), volume{"vfat", "config-2"}},
		{"FAT32", fat("32", "config-2"), volume{"vfat", "config-2"}},
		{"a boot sector without a label", unsigned, volume{}},
		{"a disk that is empty", make([]byte, 64<<10), volume{}},
		{"a disk that is smaller than a sector", []byte("x"), volume{}},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			if got, ok := identify(bytes.NewReader(tt.start)); got != tt.want || ok != (tt.want != volume{}) {
				t.Errorf("got %+v, %t", got, ok)
			}
		})
	}
}

func FuzzIdentify(f *testing.F) {
	f.Add(iso("cidata"))
	f.Add(fat("16", "cidata"))
	f.Add(fat("32", "config-2"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, start []byte) {
		if v, ok := identify(bytes.NewReader(start)); ok && v.fsType != "iso9660" && v.fsType != "vfat" {
			t.Errorf("a volume of type %q would be mounted", v.fsType)
		}
	})
}

const publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f ann"

func TestDrive(t *testing.T) {
	for _, tt := range []struct {
		rule    string
		devices map[string][]byte
		files   map[string]string // of the volume
		want    string
	}{
		{"no volume is ours", map[string][]byte{"sda": iso("debian"), "sdb": nil}, nil, "built by "},
		{"user-data is a document", map[string][]byte{"sr0": iso("cidata")},
			map[string]string{"meta-data": "instance-id: i-1\n", "user-data": "#umbra-config\n" + host("a")},
			"a by volume cidata on sr0: user-data"},
		{"its first line counts as one", map[string][]byte{"vda1": fat("16", "CIDATA"), "vda": nil},
			map[string]string{"user-data": "#umbra-config\r\nx = 1"}, "volume cidata on vda1: user-data: line 2: x: no such key"},
		{"meta-data names the host, and user-data is over it", map[string][]byte{"sr0": iso("cidata")},
			map[string]string{"meta-data": "local-hostname: m\n", "user-data": "#umbra-config\n" + host("u")},
			"u by volume cidata on sr0: meta-data, volume cidata on sr0: user-data"},
		{"an empty user-data says nothing", map[string][]byte{"sr0": iso("cidata")},
			map[string]string{"meta-data": "local-hostname: m\n", "user-data": "\n"}, "m by volume cidata on sr0: meta-data"},
		{"user-data for another program", map[string][]byte{"sr0": iso("cidata")}, map[string]string{"user-data": "#cloud-config\nhostname: x\n"},
			"volume cidata on sr0: user-data: line 1: want #umbra-config here, and a document of umbra's below"},
		{"a network that would not be made", map[string][]byte{"sr0": iso("cidata")}, map[string]string{"network-config": "version: 2\n"},
			"volume cidata on sr0: network-config: is not understood: say it in user-data"},
		{"every fault is told", map[string][]byte{"sr0": iso("cidata")}, map[string]string{"meta-data": "x: y\n", "user-data": "#umbra-config\ny = 1"},
			"volume cidata on sr0: meta-data: line 1: x: no such key\nvolume cidata on sr0: user-data: line 2: y: no such key"},
		{"a config drive", map[string][]byte{"sr0": iso("config-2")}, map[string]string{
			"openstack/latest/meta_data.json": `{"uuid": "u", "hostname": "m.novalocal", "public_keys": {"ann": "` + publicKey + `\n"}}`,
		}, "m.novalocal by volume config-2 on sr0: openstack/latest/meta_data.json, volume config-2 on sr0: openstack/latest/meta_data.json"},
		{"a config drive with a document", map[string][]byte{"sr0": iso("config-2")}, map[string]string{
			"openstack/latest/meta_data.json": `{"hostname": "m"}`, "openstack/latest/user_data": "#umbra-config\n" + host("u"),
		}, "u by volume config-2 on sr0: openstack/latest/meta_data.json, volume config-2 on sr0: openstack/latest/user_data"},
		{"a key in meta_data.json that is none", map[string][]byte{"sr0": iso("config-2")}, map[string]string{
			"openstack/latest/meta_data.json": `{"public_keys": {"ann": "x"}}`,
		}, `volume config-2 on sr0: openstack/latest/meta_data.json: image.authorized_keys[0]: "x": want a public key in one line, such as ssh-ed25519 AAAA… name`},
		{"two volumes", map[string][]byte{"sr0": iso("cidata"), "vda": fat("16", "config-2")}, nil,
			"volume with configuration: sr0 (cidata) and vda (config-2): want one"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			dir := t.TempDir()
			for name, start := range tt.devices {
				write(t, dir, map[string]string{"class/" + name + "/dev": "", "dev/" + name: string(start)})
			}
			write(t, filepath.Join(dir, "mounted"), tt.files)
			mount := func(_ string, _ volume, read func(string) error) error { return read(filepath.Join(dir, "mounted")) }
			got := hostname(func(context.Context, *slog.Logger) ([]*overlay.Document, error) {
				return readDrive(filepath.Join(dir, "class"), filepath.Join(dir, "dev"), mount)
			})
			if got != tt.want {
				t.Errorf("got\n\t%s, want\n\t%s", got, tt.want)
			}
		})
	}
}

func TestAVolumeThatCannotBeMounted(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"class/sr0/dev": "", "dev/sr0": string(iso("cidata"))})
	broken := errors.New("input/output error")
	_, err := readDrive(filepath.Join(dir, "class"), filepath.Join(dir, "dev"), func(string, volume, func(string) error) error { return broken })
	if !errors.Is(err, broken) {
		t.Errorf("error %v: services would start with half of what they are told", err)
	}
}

func TestAnImageWithoutTheClassLooksForNoVolume(t *testing.T) {
	docs, err := Drive(nil, "", func(context.Context, ...string) error {
		t.Error("a module was loaded")
		return nil
	})(context.Background(), quiet)
	if docs != nil || err != nil {
		t.Errorf("got %v, %v", docs, err)
	}
}

func TestMetaData(t *testing.T) {
	for _, tt := range []struct{ rule, text, want string }{
		{"the host's name, in quotes", "---\n# who\ninstance-id: i\n\nlocal-hostname: \"a\"\n", "a by m"},
		{"in others", "local-hostname: 'a'", "a by m"},
		{"a name that is none", "local-hostname: a b", `m: image.hostname: "a b": want letters, digits, dots and inner dashes, 1 to 64 of them`},
		{"a list", "public-keys:\n  - k\n", "m: line 1: public-keys: no such key"},
		{"no YAML", "{}", "m: line 1: want key: value"},
		{"a colon in a key", "a:b: c", "m: line 1: want key: value"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			got := hostname(func(context.Context, *slog.Logger) ([]*overlay.Document, error) {
				return metaData("m", []byte(tt.text))
			})
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// What comes from a volume is a document or an error that names its place.
func FuzzVolume(f *testing.F) {
	f.Add("local-hostname: \"a\"\n", "#umbra-config\n[image]\nhostname = 'a'")
	f.Add("---\n# x\ninstance-id: 'i'\nx: y", "")
	f.Add(`{"hostname": "m", "public_keys": {"ann": "`+publicKey+`"}}`, "#!/bin/sh\n")
	f.Fuzz(func(t *testing.T, meta, user string) {
		for label, files := range map[string]map[string]string{
			labelNoCloud:     {"meta-data": meta, "user-data": user},
			labelConfigDrive: {"openstack/latest/meta_data.json": meta, "openstack/latest/user_data": user},
		} {
			dir := t.TempDir()
			write(t, dir, files)
			docs, err := readVolume("volume", volume{label: label}, dir)
			if err != nil {
				if !errors.Is(err, config.ErrInvalid) || !strings.HasPrefix(err.Error(), "volume: ") {
					t.Fatalf("error %q is not ErrInvalid, or names no place", err)
				}
				continue
			}
			_, err = overlay.Apply([]byte(image), docs...)
			if err != nil && !errors.Is(err, config.ErrInvalid) {
				t.Fatalf("error %v is not ErrInvalid", err)
			}
		}
	})
}

func TestReadFileIsBounded(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, make([]byte, 2*overlay.MaxSize), 0o644); err != nil {
		t.Fatal(err)
	}
	if text, err := readFile(name); err != nil || len(text) != overlay.MaxSize+1 {
		t.Errorf("read %d bytes, %v", len(text), err)
	}
}
