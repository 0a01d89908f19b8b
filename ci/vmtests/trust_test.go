// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/image/kernel"
	"github.com/umbra-vm/umbra/image/kernel/kerneltest"
)

// trustImage has a kernel in lockdown, and modules that its root may want to load.
var trustImage = sync.OnceValues(func() (*image.Bundle, error) {
	dir := filepath.Join(workDir, "trust")
	if err := writeModules(filepath.Join(dir, "modules")); err != nil {
		return nil, err
	}
	return build("trust", rig.GuestOptions{
		Drivers: []string{"e1000", "virtio_net"}, Witness: pace,
		Extra: fmt.Sprintf(`[log]
syslog = "udp://%s"
[ntp]
dhcp = "on"
[security]
lockdown = "integrity"
[[service]]
name = "look"
exec = ["/bin/shadowctl", "status"]
type = "oneshot"
restart = "never"
files = ["modules:/modules"]
`, testbed.Subnet4.Addr()),
	})()
})

// writeModules writes a module of the kernel's as it is, without its signature, and with
// a byte changed.
func writeModules(dir string) error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	k, err := kernel.Open(context.Background(), kernel.Source{Package: "linux-image-amd64"}, kernel.Options{CacheDir: filepath.Join(cache, "umbra")})
	if err != nil {
		return err
	}
	const dummy = "kernel/drivers/net/dummy.ko"
	all := filepath.Join(dir, "..", "all-modules")
	if err := k.CopyModules(all, []string{dummy}); err != nil {
		return err
	}
	signed, err := os.ReadFile(filepath.Join(all, dummy))
	if err != nil {
		return err
	}
	unsigned, ok := kerneltest.Unsigned(signed)
	if !ok {
		return fmt.Errorf("%s is not signed", dummy)
	}
	changed := bytes.Clone(signed)
	changed[len(unsigned)/2] ^= 1
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, content := range map[string][]byte{"unsigned": unsigned, "changed": changed, "signed": signed} {
		if err := os.WriteFile(filepath.Join(dir, name+".ko"), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// TestTrust moves a guest whose kernel is in lockdown, and has its root look for more
// than docs/security.md says he has.
func TestTrust(t *testing.T) {
	g := start(t, trustImage, e1000At2, cmdline("nemesis=trust"), asBuilt)
	g.traffic()
	g.waitConsole("nemesis: trust is told")
	for _, want := range []string{
		"unsigned.ko: key was rejected by service", "changed.ko: (key was rejected by service|bad message)", "signed.ko: <nil>",
		"kernel's memory: .*operation not permitted", "configuration space: .*operation not permitted",
	} {
		if !g.rec.says("nemesis: " + want + "$") {
			t.Errorf("root in the guest does not say %q", want)
		}
	}
	table := read(t, "../../docs/security.md")
	for _, program := range []string{"shadowd", "netcfgd", "logd", "ntpd"} {
		row := regexp.MustCompile("(?m)^\\| `" + program + "` \\|([^|]*)\\|").FindStringSubmatch(table)
		if row == nil {
			t.Fatalf("docs/security.md does not tell what %s may", program)
		}
		want := fmt.Sprintf("nemesis: %s may CapPrm=%[2]s CapBnd=%[2]s NoNewPrivs=1$", program, mask(t, row[1]))
		for _, line := range g.rec.since(0, "nemesis: "+program+" may ") {
			if !regexp.MustCompile(want).MatchString(line) {
				t.Errorf("%q, want %q", line, want)
			}
		}
	}
	for _, line := range g.rec.since(0, "nemesis: hears ") {
		ours := regexp.MustCompile(`: (shadowd|netcfgd|logd|ntpd|deploy|init|the kernel)$`).MatchString(line)
		if ours && !regexp.MustCompile(`hears (udp 68|packet 0800): netcfgd$`).MatchString(line) { // DHCP
			t.Errorf("a listener: %s", line)
		}
	}

	g.move(virtioAt5)
	g.lossless(g.recovered(1))
	g.traffic()
	g.unharmed()
	for _, line := range g.rec.since(0, "umbra: .*(operation not permitted|permission denied)") {
		t.Errorf("a privilege is missing: %s", line)
	}
}

// mask is how the kernel writes a set of capabilities.
func mask(t *testing.T, names string) string {
	t.Helper()
	var bits uint64
	for _, name := range regexp.MustCompile(`CAP_\w+`).FindAllString(names, -1) {
		c, err := cap.FromName(strings.ToLower(name))
		if err != nil {
			t.Fatal(err)
		}
		bits |= 1 << c
	}
	return fmt.Sprintf("%016x", bits)
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
