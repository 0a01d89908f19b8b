// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package modinfo

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/drivers/kmod"
)

// modules writes a modules directory: files of modules by path, with their
// fields, and others by name.
func modules(t *testing.T, files map[string][]string, others map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(path string, b []byte) {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for path, fields := range files {
		write(path, compress(t, path, moduleFile(fields...)))
	}
	for name, text := range others {
		write(name, []byte(text))
	}
	return dir
}

// debian returns the modules of testdata/debian; see the README there.
func debian(t *testing.T) *Set {
	t.Helper()
	b, err := os.ReadFile("testdata/debian/modinfo")
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string][]string)
	var path string
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		if field, ok := strings.CutPrefix(line, "\t"); ok {
			files[path] = append(files[path], field)
		} else {
			path = line
		}
	}
	order, err := os.ReadFile("testdata/debian/modules.order")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(modules(t, files, map[string]string{"modules.order": string(order)}))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestIndexAgreesWithDepmod(t *testing.T) {
	s := debian(t)
	all := s.Modules()
	slices.Reverse(all) // the order of the argument does not matter
	files, err := s.Index(all)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"modules.dep", "modules.alias", "modules.softdep"} {
		want, err := os.ReadFile("testdata/debian/" + name)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Split(string(files[name]), "\n")
		for i, line := range strings.Split(string(want), "\n") {
			if i >= len(got) || got[i] != line {
				t.Errorf("%s, line %d: depmod writes\n%s", name, i+1, line)
				break
			}
		}
		if len(files[name]) != len(want) {
			t.Errorf("%s has %d bytes, depmod's %d", name, len(files[name]), len(want))
		}
	}
}

func TestClosure(t *testing.T) {
	s := debian(t)
	for _, tt := range []struct{ rule, names, want string }{
		{"a module that needs nothing is alone", "e1000", "e1000"},
		{"dependencies come along, in depmod's order", "virtio-net", "virtio virtio_ring virtio_net net_failover failover"},
		{"soft dependencies come along with theirs", "r8169", "mdio_devres libphy realtek r8169"},
		{"soft dependencies can be aliases, of several modules", "jbd2", "crc32c_intel jbd2 crc32c_generic"},
		{"soft dependencies of dependencies come along, missing ones do not matter", "vfio-pci",
			"vfio vfio_virqfd vfio_iommu_type1 vfio_pci_core vfio_pci irqbypass"},
		{"a name can be an alias", "pci:v000010ECd00008139sv00001AF4sd00001100bc02sc00i00", "8139cp 8139too mii"},
		{"each comes once", "e1000 8139cp e1000 mii", "e1000 8139cp mii"},
	} {
		all, err := s.Closure(strings.Fields(tt.names)...)
		if err != nil {
			t.Errorf("%s: %v", tt.rule, err)
			continue
		}
		var got []string
		for _, m := range all {
			got = append(got, m.Name)
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %q, want %q", tt.rule, got, tt.want)
		}
	}
	if _, err := s.Closure("e1000", "e1001"); !errors.Is(err, ErrNoModule) || !strings.Contains(err.Error(), "e1001") {
		t.Errorf("a name that is nowhere: %v", err)
	}
	if got := s.Under("kernel/drivers/net/ethernet/realtek/"); !slices.Equal(got, []string{"8139cp", "8139too", "r8169"}) {
		t.Errorf("below a directory: %q", got)
	}
}

func TestBuiltinModules(t *testing.T) {
	s, err := Open(modules(t,
		map[string][]string{
			"kernel/8139cp.ko":   {"depends=mii", "softdep=pre: crypto-x"},
			"kernel/lost.ko.zst": {"depends=gone"},
		},
		map[string]string{
			"modules.builtin":         "kernel/drivers/net/mii.ko\nkernel/crypto/x.ko\n",
			"modules.builtin.modinfo": "x.license=GPL\x00x.alias=crypto-x\x00",
		}))
	if err != nil {
		t.Fatal(err)
	}
	all, err := s.Closure("8139cp", "mii", "crypto-x")
	if err != nil || len(all) != 1 {
		t.Fatalf("closure %v, error %v; want 8139cp alone", all, err)
	}
	files, err := s.Index(all)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(files["modules.dep"]); got != "kernel/8139cp.ko:\n" {
		t.Errorf("modules.dep is %q", got)
	}
	if string(files["modules.builtin"]) != "kernel/drivers/net/mii.ko\nkernel/crypto/x.ko\n" || len(files["modules.builtin.modinfo"]) == 0 {
		t.Error("the lists of built-in modules are not passed on")
	}
	if _, err := s.Closure("lost"); !errors.Is(err, ErrNoModule) || !strings.Contains(err.Error(), "lost needs gone") {
		t.Errorf("a dependency that is nowhere: %v", err)
	}
	lost, _ := s.Module("lost")
	if _, err := s.Index([]*Module{lost}); !errors.Is(err, ErrNoModule) {
		t.Errorf("an index of an incomplete set: %v", err)
	}
}

func TestIndexNamesACycle(t *testing.T) {
	s, err := Open(modules(t, map[string][]string{
		"a.ko": {"depends=b"}, "b.ko": {"depends=c-d"}, "c-d.ko": {"depends=b"}, "e.ko": {"depends="},
	}, nil))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Index(s.Modules())
	if !errors.Is(err, kmod.ErrCycle) || !strings.Contains(err.Error(), "b, c_d") {
		t.Errorf("error %v", err)
	}
}

func TestOpenRefusesTwoFilesForOneModule(t *testing.T) {
	_, err := Open(modules(t, map[string][]string{"a/x-y.ko": {"name=x"}, "b/x_y.ko.xz": {"name=x"}}, nil))
	if err == nil || !strings.Contains(err.Error(), "a/x-y.ko") || !strings.Contains(err.Error(), "b/x_y.ko.xz") {
		t.Errorf("error %v, want one that names both files", err)
	}
}
