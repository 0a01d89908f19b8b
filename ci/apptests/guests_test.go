// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package apptests

import (
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/ci/testbed/vm"
	"github.com/umbra-vm/umbra/ci/testbed/vmtest"
	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/image/machine"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"
)

// The addresses of the guests: the one that moves gets the first that DHCP gives away.
var (
	serverAddr = testbed.FirstLease
	clientAddr = netip.MustParseAddr("10.99.0.50")
)

// lean is what of the packages is not used here, and would only fill the guests'
// memory: perl for the scripts of packages, what PostgreSQL compiles queries with.
const lean = `exclude = [
	"/usr/share/doc", "/usr/share/info", "/usr/share/locale", "/usr/share/man", "/usr/share/i18n", "/usr/share/perl",
	"/usr/lib/x86_64-linux-gnu/perl", "/usr/lib/x86_64-linux-gnu/perl-base", "/usr/lib/postgresql/15/lib/bitcode",
	"/usr/lib/x86_64-linux-gnu/libLLVM-14.so.1", "/usr/lib/x86_64-linux-gnu/libz3.so.4",
]
`

// common are the packages of both guests.
const common = `"openssh-server", "iperf3", "rsync", "postgresql-15", "redis-tools", "dash", "coreutils", "util-linux"`

// serverImage describes the guest that moves, clientImage the other one, beyond what
// both have.
const (
	serverImage = `
[packages]
names = ["nginx", "redis-server", ` + common + `]
` + lean + `
[[service]]
name = "iperf3"
exec = ["/usr/bin/iperf3", "--server"]
needs = ["net0"]
[[service]]
name = "nginx"
exec = ["/bin/sh", "/etc/nginx.sh"]
files = ["nginx.sh:/etc/", "nginx.conf:/etc/nginx/"]
needs = ["net0"]
[[service]]
name = "redis"
exec = ["/usr/bin/setpriv", "--reuid=redis", "--regid=redis", "--clear-groups", "/usr/bin/redis-server", "--bind", "0.0.0.0",
	"--protected-mode", "no", "--dir", "/tmp", "--appendonly", "yes", "--appendfsync", "always"]
needs = ["net0"]
[[service]]
name = "postgres"
exec = ["/bin/sh", "/etc/postgres.sh"]
files = ["postgres.sh:/etc/"]
needs = ["net0"]
`
	clientImage = `
[role.network]
method = "static"
addresses = ["10.99.0.50/24"]
[packages]
names = ["wrk", ` + common + `]
` + lean + `
[[service]]
name = "pace"
exec = ["/usr/bin/true"]
files = ["pace.lua:/etc/"]
restart = "never"
`
	bothImages = `
[[service]]
name = "sshd"
exec = ["/bin/sh", "/etc/sshd.sh"]
files = ["sshd.sh:/etc/", "sshd_config:/etc/ssh/", "ssh_config:/etc/ssh/", "passwd:/etc/", "group:/etc/",
	"id_ed25519:/root/.ssh/", "authorized_keys:/root/.ssh/"]
needs = ["net0"]
[machine]
memory_mb = 768
`
)

// workDir is where images are built, once for all tests.
var workDir string

func TestMain(m *testing.M) { os.Exit(vmtest.Main(m, &workDir)) }

// images are those of both guests, and the key that opens them.
type images struct {
	servers, clients *image.Bundle
	key              ed25519.PrivateKey
}

// build builds both images.
var build = sync.OnceValues(func() (images, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return images{}, err
	}
	all := images{key: key}
	g, ctx := errgroup.WithContext(context.Background())
	g.Go(func() (err error) {
		all.servers, err = buildOne(ctx, filepath.Join(workDir, "server"), serverImage, key)
		return err
	})
	g.Go(func() (err error) {
		all.clients, err = buildOne(ctx, filepath.Join(workDir, "client"), clientImage, key)
		return err
	})
	err = g.Wait()
	return all, err
})

// buildOne builds a guest of a description, with testdata and a key that opens both
// guests beside it.
func buildOne(ctx context.Context, dir, description string, key ed25519.PrivateKey) (*image.Bundle, error) {
	if err := os.CopyFS(dir, os.DirFS("testdata")); err != nil {
		return nil, err
	}
	private, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return nil, err
	}
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	for name, content := range map[string][]byte{"id_ed25519": pem.EncodeToMemory(private), "authorized_keys": ssh.MarshalAuthorizedKey(public)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return nil, err
		}
	}
	return rig.Build(ctx, rig.GuestOptions{
		Dir: dir, NoWitness: true, Drivers: []string{"e1000", "8139cp", "virtio_net"}, Extra: description + bothImages,
		Options: image.Options{Progress: func(step string) { fmt.Fprintln(os.Stderr, "apptests:", step) }},
	})
}

// pair is the guest that moves, and the one with the clients.
type pair struct {
	bed            *testbed.Bed
	server         *rig.Rig
	atServer       *shell
	atClient       *shell
	jobs           []*job    // the clients of programs, in their order
	idle           *terminal // a session of ssh, from guest to guest
	idlePID        string    // of its shell
	serverConsole  console
	clientsConsole console
}

// start boots both guests, that which moves with words added to its command line, and
// ends them with the test.
func start(ctx context.Context, t *testing.T, cmdline string) *pair {
	t.Helper()
	all, err := build()
	if err != nil {
		t.Fatalf("build the images: %v", err)
	}
	p, dir := &pair{}, vmtest.Dir(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the server's console:\n%s\nend of the client's console:\n%s", p.serverConsole.tail(), p.clientsConsole.tail())
		}
	})
	if p.bed, err = testbed.Open(ctx, testbed.Options{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.bed.Close() })
	opts := rig.Options{Bed: p.bed, Bundle: all.servers, Dir: dir, Cmdline: cmdline, OnLine: p.serverConsole.line}
	if p.server, err = rig.Start(ctx, opts, e1000At2); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.server.Close() })
	p.startClient(ctx, t, all.clients, dir)
	p.atServer = dial(ctx, t, p.bed, serverAddr, all.key)
	p.atClient = dial(ctx, t, p.bed, clientAddr, all.key)
	return p
}

// startClient boots the guest with the clients. It uses its hardware directly.
func (p *pair) startClient(ctx context.Context, t *testing.T, b *image.Bundle, dir string) {
	t.Helper()
	netdev, _, err := p.bed.Plug("client")
	if err != nil {
		t.Fatal(err)
	}
	m := b.VM()
	m.Name = "client"
	m.Cmdline += " umbra.shadow=off"
	m.NICs = []machine.NIC{{ID: "net", Model: "virtio-net-pci", MAC: "52:54:00:75:6d:50", Netdev: netdev}}
	client, err := vm.Start(ctx, m, vm.Options{Dir: dir, OnLine: func(l vm.Line) { p.clientsConsole.line("client", l) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
}

// console keeps the end of what a guest has printed.
type console struct {
	mu    sync.Mutex
	lines []string
}

func (c *console) line(host string, l vm.Line) {
	const kept = 150
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = append(c.lines, fmt.Sprintf("%s %s | %s", l.At.Format("15:04:05.000"), host, l.Text))
	c.lines = c.lines[max(0, len(c.lines)-kept):]
}

func (c *console) tail() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.lines, "\n")
}
