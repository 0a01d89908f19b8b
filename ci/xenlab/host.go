// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package xenlab is a Xen host inside QEMU: hypervisor, a dom0 assembled from
// Debian packages, and network cards that the host's domains can be given. Domains
// are made, asked and moved with Xen's own tools, as an administrator would.
//
// It must not judge: what a move has to look like is its users' business.
package xenlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/umbra-vm/umbra/ci/testbed/vm"
	"github.com/umbra-vm/umbra/ci/xenlab/dom0"
	"github.com/umbra-vm/umbra/image/machine"
)

const (
	memoryMB     = 3072
	dom0MemoryMB = 1200

	// cpu is what Xen 4.17 and its guests live with on QEMU 7.2's TCG. Without
	// -smap dom0 dies before its console (a ring-3 IRET reads its stack as the
	// supervisor); with XSAVE programs of dom0 find their heap damaged once a
	// domain runs; HVM guests die of RDTSCP.
	cpu = "max,-smap,-xsave,-avx,-avx2,-pku,-mpx,-rdtscp"

	// xenCmdline: dom0 has one processor and a fixed part of the memory. Xen
	// would share the page tables of guests with the IOMMU, which are those of
	// AMD's SVM and of Intel's VT-d here.
	xenCmdline = "console=com1 com1=115200,8n1 dom0_mem=%[1]dM,max:%[1]dM dom0_max_vcpus=1 loglvl=info guest_loglvl=info noreboot iommu=no-sharept"

	dom0Cmdline = "console=hvc0 panic=-1 quiet"
)

// HostOptions describe a host. Name and Dom0 are required.
type HostOptions struct {
	Name string
	Dom0 *dom0.Dom0
	// NICs are the host's, for domains, in the order of [Device]. Each is in a root port of
	// its own, by which it can be reset: one that was left in use goes on to write where
	// its driver has told it to, into memory of the next domain that lets it.
	NICs []machine.NIC
	Link Link // to other hosts, optional
	vm.Options
}

// firstPort is the slot of the first root port.
const firstPort = 4

// Device is the address of the n-th of a host's [HostOptions.NICs] in dom0: firmware numbers the
// buses behind root ports in their order.
func Device(n int) string { return fmt.Sprintf("0000:%02x:00.0", 1+n) }

// A Link is a card, with an address, by which hosts reach each other.
type Link struct {
	NIC     machine.NIC
	Address netip.Prefix
}

// A Host is a Xen host that runs.
type Host struct {
	Name string
	VM   *vm.VM
	Link Link

	client *ssh.Client
}

// ErrCommand is matched by the error of a command that ended with another status
// than 0.
var ErrCommand = errors.New("command failed")

// Start boots a host and returns once its dom0 does what it is told.
func Start(ctx context.Context, opts HostOptions) (*Host, error) {
	var nics []machine.NIC
	var ports []machine.RootPort
	for i, n := range opts.NICs {
		ports = append(ports, machine.RootPort{ID: fmt.Sprint("port", i), Address: fmt.Sprint(firstPort + i)})
		n.Bus, n.Address = ports[i].ID, "0"
		nics = append(nics, n)
	}
	if opts.Link.Address.IsValid() {
		nics = append(nics, opts.Link.NIC)
	}
	v, err := vm.Start(ctx, machine.Machine{
		Name:     opts.Name,
		Kernel:   opts.Dom0.Xen,
		Cmdline:  fmt.Sprintf(xenCmdline, dom0MemoryMB),
		Initrd:   opts.Dom0.Kernel + " " + dom0Cmdline + "," + opts.Dom0.Initramfs,
		MemoryMB: memoryMB,
		Type:     machine.Q35,
		CPU:      cpu,
		Accel:    []string{"tcg,thread=single"},
		Ports:    ports,
		NICs:     nics,
		Extra: []string{
			"-device", "intel-iommu,intremap=on", // without which nothing can be passed through
			// Of a faster one, Linux waits a second after a reset for a link that QEMU has none of,
			// and takes the reset for failed (pci_bridge_wait_for_secondary_bus).
			"-global", "pcie-root-port.x-speed=5",
		},
	}, opts.Options)
	if err != nil {
		return nil, err
	}
	h := &Host{Name: opts.Name, VM: v, Link: opts.Link}
	if h.client, err = connect(ctx, v.Machine.Ctl); err != nil {
		v.Close()
		return nil, fmt.Errorf("host %s: dom0: %w", opts.Name, err)
	}
	if err := h.linkUp(ctx); err != nil {
		v.Close()
		return nil, err
	}
	return h, nil
}

// linkMTU is as large as virtio-net takes it. Each packet costs dom0 an interrupt, of
// which a domain's memory would be a hundred thousand.
const linkMTU = 65000

func (h *Host) linkUp(ctx context.Context) error {
	if !h.Link.Address.IsValid() {
		return nil
	}
	_, err := h.Run(ctx, fmt.Sprintf(`nic=$(ls /sys/bus/pci/devices/0000:00:%02s.0/virtio*/net) && ip addr add %v dev $nic &&
		ip link set $nic mtu %d up`, h.Link.NIC.Address, h.Link.Address, linkMTU))
	return err
}

// connect begins to speak with dom0's agent, which answers once it is there.
func connect(ctx context.Context, path string) (*ssh.Client, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { c.Close() })()
	sc, channels, requests, err := ssh.NewClientConn(c, path, &ssh.ClientConfig{
		User: "root",
		// The other end of the port is nobody else.
		HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		c.Close()
		return nil, errors.Join(context.Cause(ctx), err)
	}
	return ssh.NewClient(sc, channels, requests), nil
}

// Close ends the host, as a loss of power would.
func (h *Host) Close() error { return h.VM.Close() }

// Run runs a command in dom0's shell and returns what it printed. A status other
// than 0 is an error with what the command had to say; it matches [ErrCommand].
func (h *Host) Run(ctx context.Context, line string) (string, error) {
	var out bytes.Buffer
	err := h.Stream(ctx, line, nil, &out)
	return out.String(), err
}

// Stream is Run with the command's input from in, unless that is nil, and its
// output to out.
func (h *Host) Stream(ctx context.Context, line string, in io.Reader, out io.Writer) error {
	s, err := h.client.NewSession()
	if err != nil {
		return fmt.Errorf("host %s: %s: %w", h.Name, line, err)
	}
	defer s.Close()
	defer context.AfterFunc(ctx, func() { s.Close() })()
	var complaint bytes.Buffer
	s.Stdin, s.Stdout, s.Stderr = in, out, &complaint
	err = s.Run(line)
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case errors.As(err, &exit):
		err = fmt.Errorf("%w: status %d", ErrCommand, exit.ExitStatus())
	}
	return fmt.Errorf("host %s: %s: %w: %s", h.Name, line, err, strings.TrimSpace(complaint.String()))
}

// Bridge is dom0's bridge for paravirtual NICs.
const Bridge = "xenbr0"

// AddBridge makes [Bridge] and puts the network card at a host's address on it. Its
// driver is one that dom0 has: virtio-net.
func (h *Host) AddBridge(ctx context.Context, card string) error {
	_, err := h.Run(ctx, fmt.Sprintf(`nic=$(ls /sys/bus/pci/devices/%[2]s/virtio*/net) && brctl addbr %[1]s &&
		brctl addif %[1]s $nic && ip link set $nic up && ip link set %[1]s up`, Bridge, card))
	return err
}

// khz is how fast the clock of the host's processors is, as Xen has measured it.
func (h *Host) khz(ctx context.Context) (int, error) {
	info, err := h.Run(ctx, "xl info")
	if err != nil {
		return 0, err
	}
	var mhz, khz int
	for line := range strings.Lines(info) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "cpu_mhz" {
			if _, err := fmt.Sscanf(value, "%d.%d", &mhz, &khz); err != nil {
				return 0, fmt.Errorf("host %s: xl info: cpu_mhz %q: %w", h.Name, value, err)
			}
			return mhz*1000 + khz, nil
		}
	}
	return 0, fmt.Errorf("host %s: xl info does not say cpu_mhz", h.Name)
}

// Put writes a file in dom0.
func (h *Host) Put(ctx context.Context, name string, content io.Reader) error {
	return h.Stream(ctx, "cat > "+name, content, io.Discard)
}

// Dial connects to a unix socket in dom0.
func (h *Host) Dial(path string) (net.Conn, error) {
	c, err := h.client.Dial("unix", path)
	if err != nil {
		return nil, fmt.Errorf("host %s: %s: %w", h.Name, path, err)
	}
	return c, nil
}
