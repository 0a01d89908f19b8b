// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/image"
)

// syslogAddr is where the guest of TestServices sends what its programs print.
var syslogAddr = netip.AddrPortFrom(testbed.Subnet4.Addr(), 601)

// subjects are the services of TestServices beside the witness: what each is given, and
// what it does (internal/subject).
var subjects = []struct{ name, act, keys string }{
	{"front", `"keep"`, `needs = ["base"]`},
	{"base", `"keep"`, `needs = ["prepare"]`},
	{"prepare", `"prepare"`, `type = "oneshot"`},
	{"deaf", `"deaf"`, `stop_timeout_ms = 300`},
	{"idle", `"nothing"`, ``},
	{"self", `"self"`, `user = "app"
groups = ["log"]
capabilities = ["CAP_NET_BIND_SERVICE"]
limits = { memory_mb = 48, cpu_percent = 150, cpu_weight = 50, pids = 40 }`},
	{"sealed", `"write", "/etc", "/root", "/sys/fs/cgroup", "/tmp", "/run", "/var/lib/sealed", "/data"`, `read_only_root = "on"
capabilities = []
writable = ["/data"]`},
	{"hungry", `"hungry"`, `limits = { memory_mb = 24 }
backoff_ms = { min = 200 }`},
	{"many", `"fork"`, `limits = { pids = 40 }`},
	{"busy", `"spin"`, `limits = { cpu_percent = 10 }`},
	{"leave", `"leave"`, `type = "oneshot"`},
	{"left", `"gone"`, `type = "oneshot"
needs = ["leave"]`},
}

var servicesImage = sync.OnceValues(func() (*image.Bundle, error) {
	dir := filepath.Join(workDir, "services")
	if _, err := compile(filepath.Join(dir, "subject"), "build", "./internal/subject"); err != nil {
		return nil, err
	}
	for name, content := range map[string]string{
		"passwd": "root:x:0:0::/root:/bin/sh\napp:x:4001:4002::/var/lib/self:/bin/false\n",
		"group":  "app:x:4002:\nlog:x:4003:\n", "data": "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return nil, err
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "[log]\nsyslog = \"tcp://%s\"\n", syslogAddr)
	for i, s := range subjects {
		files := ""
		if i == 0 {
			files = `files = ["subject:/bin/subject", "passwd:/etc/passwd", "group:/etc/group", "data:/data/file"]`
		}
		fmt.Fprintf(&b, "[[service]]\nname = %q\nexec = [\"/bin/subject\", %s]\n%s\n%s\n", s.name, s.act, s.keys, files)
	}
	b.WriteString("[[service]]\nname = \"look\"\nexec = [\"/bin/shadowctl\", \"logs\", \"prepare\"]\ntype = \"oneshot\"\nneeds = [\"prepare\"]\n")
	return rig.Build(context.Background(), rig.GuestOptions{
		Dir: dir, Drivers: []string{"virtio_net"}, Witness: pace, Extra: b.String(), Options: image.Options{Progress: progress},
	})
})

// TestServices runs services that need each other, that are confined, that use more than
// they may, and that leave something behind, sends what they print to a syslog server,
// and switches the guest off.
func TestServices(t *testing.T) {
	g := start(t, servicesImage, virtioAt2)
	server := g.syslogServer()

	// Confined: an own user, capabilities and limits.
	for _, want := range []string{
		`self: user 4001 group 4002 groups \[4003\] app /var/lib/self$`,
		`self: CapPrm 0000000000000400$`, `self: CapEff 0000000000000400$`,
		`self: CapBnd 0000000000000400$`, `self: CapAmb 0000000000000400$`, `self: NoNewPrivs 1$`,
		`self: memory.max 50331648$`, `self: cpu.max 150000 100000$`, `self: cpu.weight 50$`, `self: pids.max 40$`,
		`self: port 80: <nil>$`, `self: another's directory: .*permission denied$`, `self: its own: <nil> <nil>$`,
		`sealed: write: /etc read-only file system$`, `sealed: write: /root read-only file system$`,
		`sealed: write: /sys/fs/cgroup read-only file system$`,
		`sealed: write: /tmp <nil>$`, `sealed: write: /run <nil>$`, `sealed: write: /var/lib/sealed <nil>$`, `sealed: write: /data <nil>$`,
		`many: some children: true true$`, `busy: was throttled$`, `left: nobody is left$`,
		`idle: ended: it asked not to be restarted \(exit code 125\)`,
		`hungry: ended, starts again exit="signal 9 \(killed\), at its limit of memory" ran=.* in=200ms`,
		`hungry: ended, starts again exit="signal 9 \(killed\), at its limit of memory" ran=.* in=400ms`,
		`look: .* prepare: prepared$`, `front: runs$`,
	} {
		g.waitConsole(want)
	}
	g.inOrder("prepare: prepared", "base: started", "front: started")

	g.execute("system_powerdown", nil)
	if err := g.Host.Wait(g.ctx); err != nil {
		t.Error(err)
	}
	g.inOrder("front: stops", "base: stops", "powers off")
	g.waitConsole(`deaf: did not end in time, is killed limit=300ms`)

	lines := server()
	for _, want := range []string{
		" guest prepare - - - prepared", // long before there was a network
		" guest init - - - base: started pid=",
		"<28>1 ", // a warning: what could not have ended well
		" guest base - - - stops",
	} {
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, want) }) {
			t.Errorf("the syslog server was not told %q", want)
		}
	}
	if lost := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, "forgotten") }); lost >= 0 {
		t.Errorf("lines were lost: %s", lines[lost])
	}
	if t.Failed() {
		t.Logf("syslog:\n%s", strings.Join(lines, "\n"))
	}
}

// inOrder checks that the console showed lines with these texts, each after the one before.
func (g *guest) inOrder(texts ...string) {
	g.t.Helper()
	lines := g.rec.since(0, "")
	for _, text := range texts {
		i := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, text) })
		if i < 0 {
			g.t.Errorf("the console does not say %q, after what comes before it in %q", text, texts)
			return
		}
		lines = lines[i+1:]
	}
}

// syslogServer serves one connection, framed as RFC 6587 has it (octet counting). What it
// returns waits for its end and returns all messages.
func (g *guest) syslogServer() func() []string {
	g.t.Helper()
	l, err := g.bed.Peer.Listen(syslogAddr)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { l.Close() })
	var lines []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		for r := bufio.NewReader(conn); ; {
			var size int
			if _, err := fmt.Fscanf(r, "%d ", &size); err != nil {
				return
			}
			text := make([]byte, size)
			if _, err := io.ReadFull(r, text); err != nil {
				return
			}
			lines = append(lines, string(text))
		}
	}()
	return func() []string {
		l.Close()
		<-done
		return lines
	}
}
