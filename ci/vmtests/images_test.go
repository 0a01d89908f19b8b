// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed/vmlinux"
	"github.com/umbra-vm/umbra/ci/testbed/vmtest"
	"github.com/umbra-vm/umbra/image"
)

// workDir is where images are built, once for all tests.
var workDir string

func TestMain(m *testing.M) { os.Exit(vmtest.Main(m, &workDir)) }

// The images, each built at its first use.
var (
	// fullImage has the drivers of every NIC of QEMU.
	fullImage = buildOnce("full")
	// e1000Image has one driver and no other.
	e1000Image = buildOnce("e1000", "e1000")
	// userImage has two drivers, and a user who gives the proxy a queueing discipline before
	// the witness sends.
	userImage = build("user", rig.GuestOptions{
		Drivers: []string{"e1000", "8139cp"},
		Before:  []string{"user"},
		Extra:   "[[service]]\nname = \"user\"\ntype = \"oneshot\"\nexec = [\"/bin/nemesis\", \"do\", \"qdisc\"]\nneeds = [\"net0\"]\n",
	})
	// shaperImage has three drivers, and what the nemesis shapes traffic with.
	shaperImage = buildOnce("shaper", "e1000e", "8139cp", "virtio_net", "sch_prio", "cls_matchall")
	// vlanImage has what VLANs need.
	vlanImage = buildOnce("vlan", "virtio_net", "8139cp", "8021q")
	// stackImage has what VLANs, macvlans and namespaces need.
	stackImage = build("stack", rig.GuestOptions{
		Drivers: []string{"e1000", "8139cp", "virtio_net", "8021q", "macvlan", "veth"}, Witness: pace,
	})
	// deployImage is told at deploy time what it is, on a volume too.
	deployImage = build("deploy", rig.GuestOptions{
		Drivers: []string{"e1000", "8021q"}, Classes: []string{"config-drive"},
	})
	// bridgeImage has what a bridge of containers needs, and no VLANs. The proxy has
	// no address: it is to be the bridge's port.
	bridgeImage = build("bridge", rig.GuestOptions{
		Drivers: []string{"e1000", "8139cp", "virtio_net", "bridge", "veth"}, Witness: pace,
		Extra: "[role.network]\nmethod = \"none\"\n",
	})
)

// pace is that of witnesses which share a guest.
var pace = []string{"-udp-interval", "20ms", "-tcp-interval", "20ms"}

func buildOnce(name string, modules ...string) func() (*image.Bundle, error) {
	return build(name, rig.GuestOptions{Drivers: modules})
}

// build builds a guest with a nemesis, beside what is in opts.
func build(name string, opts rig.GuestOptions) func() (*image.Bundle, error) {
	return sync.OnceValues(func() (*image.Bundle, error) {
		opts.Dir = filepath.Join(workDir, name)
		nemesis, err := compile(filepath.Join(opts.Dir, "nemesis"), "build", "./internal/nemesis")
		if err != nil {
			return nil, err
		}
		opts.Progress = progress
		opts.Extra += fmt.Sprintf("[[service]]\nname = \"nemesis\"\nexec = [\"/bin/nemesis\"]\nfiles = [%q]\nneeds = [%q]\nrestart = \"never\"\n",
			nemesis+":/bin/nemesis", rig.Role)
		return rig.Build(context.Background(), opts)
	})
}

// unpacking is held while a kernel is unpacked.
var unpacking sync.Mutex

// unpacked returns the kernel of an image as a file that needs not unpack itself, made once
// for all images that have it.
func unpacked(b *image.Bundle) (string, error) {
	unpacking.Lock()
	defer unpacking.Unlock()
	packed, err := os.ReadFile(filepath.Join(b.Dir, image.KernelFile))
	if err != nil {
		return "", err
	}
	name := filepath.Join(workDir, fmt.Sprintf("vmlinux-%x", sha256.Sum256(packed)))
	if _, err := os.Stat(name); err == nil {
		return name, nil
	}
	kernel, err := vmlinux.Unpack(packed)
	if err != nil {
		return "", err
	}
	return name, os.WriteFile(name, kernel, 0o644)
}

// progress says what a build does that takes long, such as a download.
func progress(step string) { fmt.Fprintln(os.Stderr, "vmtests:", step) }

// compile makes a static program of a package and returns its path.
func compile(out string, args ...string) (string, error) {
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return "", err
	}
	last := len(args) - 1
	args = append(append(args[:last:last], "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out), args[last])
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go %v: %w\n%s", args, err, text)
	}
	return out, nil
}
