// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/umbra-vm/umbra/ci/testbed/vm"
	"github.com/umbra-vm/umbra/ci/testbed/vmtest"
	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/image/machine"
)

// inGuest are the packages with tests that need a kernel of their own, built
// with -tags guest.
var inGuest = []string{"shadow/netshadow/hold", "shadow/netshadow/settings", "shadow/netshadow/announce",
	"shadow/netshadow/hasten", "shadow/netshadow/asked", "shadow/netshadow/shortcut", "shadow/signals"}

// testModules are the drivers of the NICs, and what the tests make of them.
var testModules = []string{
	"e1000", "e1000e", "8139cp", "virtio_net", "vmxnet3", "macvlan", "8021q", "veth", "bridge", "nft_fwd_netdev",
	"sch_cake", "sch_drr", "sch_ets", "sch_fq", "sch_hfsc", "sch_htb", "sch_ingress", "sch_mqprio", "sch_netem", "sch_prio",
	"sch_qfq", "sch_red", "sch_sfq", "sch_tbf", "cls_flower", "cls_fw", "cls_matchall", "cls_u32",
	"act_csum", "act_gact", "act_mirred", "act_police", "act_skbedit",
}

// testImage has the tests of inGuest and the tools that they call, and no role:
// its NICs are the tests'.
var testImage = sync.OnceValues(func() (*image.Bundle, error) {
	dir := filepath.Join(workDir, "inguest")
	src, err := image.FindSource(context.Background(), "")
	if err != nil {
		return nil, err
	}
	program, err := compile(filepath.Join(dir, "nemesis"), "build", "./internal/nemesis")
	if err != nil {
		return nil, err
	}
	files := []string{program + ":/bin/nemesis"}
	for _, pkg := range inGuest {
		name := filepath.Base(pkg) + ".test"
		bin, err := compile(filepath.Join(dir, name), "test", "-c", "-tags=guest", filepath.Join(src, pkg))
		if err != nil {
			return nil, err
		}
		files = append(files, bin+":/bin/"+name)
	}
	for _, tool := range []struct{ name, pkg string }{{"ip", "iproute2"}, {"tc", "iproute2"}, {"ethtool", "ethtool"}} {
		more, err := hostTool(dir, tool.name, tool.pkg)
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	text := "[image]\nname = \"inguest\"\n[drivers]\nmodules = " + list(testModules) + "\n" +
		"[[service]]\nname = \"nemesis\"\nexec = [\"/bin/nemesis\"]\nrestart = \"never\"\n" +
		fmt.Sprintf("files = %s\n", list(files))
	cfg, err := image.Parse(filepath.Join(dir, "inguest.toml"), []byte(text))
	if err != nil {
		return nil, err
	}
	return image.Build(context.Background(), cfg, filepath.Join(dir, "image"), image.Options{Source: src, Progress: progress})
})

// list writes strings as a TOML array, each once.
func list(in []string) string {
	seen := make(map[string]bool)
	var out []string
	for _, s := range in {
		if !seen[s] {
			seen[s] = true
			out = append(out, fmt.Sprintf("%q", s))
		}
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// libraries finds the paths in what ldd prints.
var libraries = regexp.MustCompile(`/\S+`)

// hostTool returns the files of a program of this machine, with its libraries,
// for an image. Debian's package is downloaded if the program is not installed.
func hostTool(dir, name, pkg string) ([]string, error) {
	bin, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrNotFound) {
		progress("downloading " + pkg)
		root := filepath.Join(dir, pkg)
		if err := os.MkdirAll(root, 0o755); err != nil {
			return nil, err
		}
		script := "apt-get -q -o APT::Sandbox::User=root download " + pkg + " && dpkg-deb -x " + pkg + "_*.deb ."
		cmd := exec.Command("sh", "-ec", script)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("download %s: %w\n%s", pkg, err, out)
		}
		for _, d := range []string{"sbin", "usr/sbin", "bin", "usr/bin"} {
			if _, serr := os.Stat(filepath.Join(root, d, name)); serr == nil {
				bin, err = filepath.Join(root, d, name), nil
				break
			}
		}
	}
	if err != nil {
		return nil, err
	}
	files := []string{bin + ":/bin/" + name}
	out, err := exec.Command("ldd", bin).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w\n%s", bin, err, out)
	}
	for _, lib := range libraries.FindAllString(string(out), -1) {
		real, err := filepath.EvalSymlinks(lib)
		if err != nil {
			return nil, err
		}
		files = append(files, real+":"+lib)
	}
	return files, nil
}

// TestInGuest runs the tests of single packages in a guest with five NICs on one hub.
// What has several queues needs as many CPUs, and vmxnet3.
func TestInGuest(t *testing.T) {
	if testing.Short() {
		t.Skip("a VM test")
	}
	for _, pkg := range inGuest {
		t.Run(pkg, func(t *testing.T) {
			t.Parallel()
			b, err := testImage()
			if err != nil {
				t.Fatal(err)
			}
			kernel, err := unpacked(b)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeoutCause(vmtest.Context(t), 3*patience, errors.New("the test hangs"))
			defer cancel()
			name := filepath.Base(pkg) + ".test"
			m := machine.Machine{
				Name:         "tests",
				Kernel:       kernel,
				Initrd:       filepath.Join(b.Dir, b.Initramfs),
				Cmdline:      b.Cmdline + " nemesis=run@" + name,
				MemoryMB:     512,
				GenerationID: "756d6272-6100-4000-8000-000000000000",
				Extra:        []string{"-global", "virtio-net-device.rss=on"},
			}
			models := []string{"e1000", "rtl8139", "virtio-net-pci", "e1000e", "vmxnet3"}
			if pkg == "shadow/netshadow/settings" {
				m.CPUs = 2
			}
			for i, model := range models {
				m.NICs = append(m.NICs, machine.NIC{
					ID: fmt.Sprintf("nic%d", i), Model: model, Address: fmt.Sprint(2 + i), Netdev: "hubport,hubid=0",
				})
			}
			rec := new(recorder)
			v, err := vm.Start(ctx, m, vm.Options{Dir: vmtest.Dir(t), OnLine: func(l vm.Line) { rec.line("guest", l) }})
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			line, err := rec.wait(ctx, regexp.QuoteMeta(name)+" has ended", 0)
			if err != nil || !strings.HasSuffix(line, "has ended: exit status 0") || !rec.says(`\| (\S+: )?PASS$`) {
				t.Errorf("%s: %q, %v\nconsole:\n%s", name, line, err, rec.console(keptLines))
			}
		})
	}
}
