// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/image/machine"
)

// vm is what the flags of umbra run say.
type vm struct {
	state   string // directory of the sockets
	qemu    string
	console string
	accel   []string
	append  string
	config  string
	memory  int
	nic     machine.NIC
	role    string
	noNIC   bool
	show    bool

	boot, firmware       string
	keep                 bool
	incoming, generation string
}

func newRun() *cobra.Command {
	var v vm
	cmd := &cobra.Command{
		Use:   "run DIR [-- QEMU-ARGUMENT...]",
		Short: "run a built image in QEMU",
		Long: `Run boots the image in DIR (what umbra build wrote) in QEMU and stays until the
machine ends. The console is the terminal: Ctrl-A X ends the machine, Ctrl-C
goes to the guest.

In the state directory, DIR unless --state says otherwise, lie the sockets ` + qmpSocket + `
(QEMU's monitor) and ` + ctlSocket + ` (the guest's shadow agent), which umbra status and
umbra migrate use. Machines that run at the same time need one each.`,
		Example: `  umbra run out/app
  umbra run out/app --netdev user,hostfwd=tcp:127.0.0.1:8080-:80
  umbra run out/app --config site-a.toml
  umbra run out/app --boot disk
  umbra run out/app --state /run/b --nic rtl8139 --incoming unix:/run/b/migrate.sock`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return v.run(cmd, args[0], args[1:])
		},
	}
	f := cmd.Flags()
	f.StringVar(&v.state, "state", "", "directory of the machine's sockets (default DIR)")
	f.StringVar(&v.nic.Model, "nic", "", "QEMU's name of the NIC (default the image's)")
	f.StringVar(&v.nic.Netdev, "netdev", "user", "what the NIC is connected to, as QEMU's -netdev without id")
	f.StringVar(&v.nic.Address, "address", "2", "PCI slot of the NIC")
	f.StringVar(&v.nic.MAC, "mac", "52:54:00:12:34:56", "MAC address of the NIC")
	f.StringVar(&v.role, "role", "", "role the NIC serves, which gives it its id, "+machine.Direct+"ROLE (default the image's first)")
	f.BoolVar(&v.noNIC, "no-nic", false, "give the machine no NIC")
	f.StringVar(&v.console, "console", "stdio", "stdio, file:PATH, unix:PATH or none")
	f.IntVar(&v.memory, "memory", 0, "MiB of memory (default the image's)")
	f.StringVar(&v.append, "append", "", "words added to the kernel command line, such as umbra.debug")
	f.StringVar(&v.config, "config", "", "file of what is configured at deploy time, over the image's own configuration")
	f.StringVar(&v.boot, "boot", "", "boot from what is in image.outputs, by --firmware: disk, qcow2 or iso")
	f.BoolVar(&v.keep, "keep", false, "with --boot disk or qcow2: keep what the guest writes to it, and let the guest reboot")
	f.StringVar(&v.firmware, "firmware", "/usr/share/ovmf/OVMF.fd", "the UEFI firmware of --boot (Debian: ovmf), or "+image.BIOS+" for QEMU's own, see image.bios")
	f.StringSliceVar(&v.accel, "accel", nil, "accelerators to try, in order (default tcg)")
	f.StringVar(&v.incoming, "incoming", "", "wait for a migration: unix:PATH or defer")
	f.StringVar(&v.generation, "generation-id", "", "GUID of the VM generation id, or auto")
	f.StringVar(&v.qemu, "qemu", machine.Program, "QEMU's program")
	f.BoolVar(&v.show, "show", false, "print QEMU's command line and do not run it")
	return cmd
}

func (v *vm) run(cmd *cobra.Command, dir string, extra []string) error {
	b, err := image.Open(dir)
	if err != nil {
		return err
	}
	m, err := v.machine(b, extra)
	if err != nil {
		return &codeError{exitUsage, err}
	}
	args, err := m.Args()
	if err != nil {
		return &codeError{exitUsage, err}
	}
	if v.show {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), v.qemu, strings.Join(args, " "))
		return err
	}
	if err := v.prepare(m); err != nil {
		return refused(err)
	}
	return v.exec(cmd, args)
}

// machine combines what the image and the flags say.
func (v *vm) machine(b *image.Bundle, extra []string) (machine.Machine, error) {
	m, err := v.base(b)
	if err != nil {
		return m, err
	}
	if v.state == "" {
		v.state = b.Dir
	}
	m.QMP, m.Ctl = filepath.Join(v.state, qmpSocket), filepath.Join(v.state, ctlSocket)
	m.Accel, m.Incoming, m.GenerationID, m.Extra = v.accel, v.incoming, v.generation, extra
	m.Keep = v.keep
	if v.config != "" {
		if err := image.CheckOverlay(v.config); err != nil {
			return m, err
		}
		m.Config = v.config
	}
	if v.memory != 0 {
		m.MemoryMB = v.memory
	}
	if m.Console, err = parseConsole(v.console); err != nil {
		return m, err
	}
	if v.noNIC {
		return m, nil
	}
	n := v.nic
	if n.Model == "" {
		n.Model = b.Machine.NIC
	}
	switch {
	case v.role != "":
		n.ID = machine.Direct + v.role
	case len(b.Roles) > 0:
		n.ID = machine.Direct + b.Roles[0]
	default:
		n.ID = "nic0"
	}
	m.NICs = []machine.NIC{n}
	return m, nil
}

// base is a machine that boots what the flags say, and has nothing else.
func (v *vm) base(b *image.Bundle) (machine.Machine, error) {
	if v.boot == "" {
		m := b.VM()
		m.Cmdline = strings.TrimSpace(m.Cmdline + " " + v.append)
		return m, nil
	}
	if v.append != "" {
		return machine.Machine{}, errors.New("--append: the kernel command line is part of what --boot boots")
	}
	return b.VMFrom(image.Output(v.boot), v.firmware)
}

func parseConsole(s string) (machine.Chardev, error) {
	kind, path, _ := strings.Cut(s, ":")
	switch kind {
	case "stdio":
		return machine.Chardev{Kind: machine.ToStdio}, nil
	case "none":
		return machine.Chardev{Kind: machine.ToNull}, nil
	case "file":
		return machine.Chardev{Kind: machine.ToFile, Path: path}, nil
	case "unix":
		return machine.Chardev{Kind: machine.ToSocket, Path: path}, nil
	}
	return machine.Chardev{}, fmt.Errorf("--console %q: want stdio, file:PATH, unix:PATH or none", s)
}

// prepare checks what QEMU would find out later and say less clearly: that
// QEMU is there, that no other machine uses the sockets, that ports are free.
func (v *vm) prepare(m machine.Machine) error {
	if _, err := exec.LookPath(v.qemu); err != nil {
		return fmt.Errorf("QEMU is not installed (Debian: qemu-system-x86): %w", err)
	}
	if m.Firmware != "" {
		if _, err := os.Stat(m.Firmware); err != nil {
			return fmt.Errorf("no UEFI firmware (Debian: ovmf): %w", err)
		}
	}
	if err := os.MkdirAll(v.state, 0o755); err != nil {
		return err
	}
	sockets := []string{m.QMP, m.Ctl}
	if m.Console.Kind == machine.ToSocket {
		sockets = append(sockets, m.Console.Path)
	}
	for _, path := range sockets {
		if err := freeSocket(path); err != nil {
			return err
		}
	}
	for _, n := range m.NICs {
		if err := freePorts(n.Netdev); err != nil {
			return err
		}
	}
	return nil
}

// freeSocket removes a socket that a machine left behind when it was killed.
// One that is listened on belongs to a machine that runs.
func freeSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s is not a socket, and in its place", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return fmt.Errorf("%s is in use: a machine runs there; end it, or give this one another directory with --state", path)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return os.Remove(path)
	}
	return fmt.Errorf("%s cannot be used: %w", path, err)
}

// freePorts checks the host's side of the forwardings of a user-mode network,
// hostfwd=tcp:ADDRESS:PORT-...
func freePorts(netdev string) error {
	for option := range strings.SplitSeq(netdev, ",") {
		rule, ok := strings.CutPrefix(option, "hostfwd=")
		if !ok {
			continue
		}
		network, rest, _ := strings.Cut(rule, ":")
		address, _, ok := strings.Cut(rest, "-")
		if !ok {
			continue // QEMU says what is wrong with it
		}
		var err error
		switch network {
		case "", "tcp":
			var l net.Listener
			if l, err = net.Listen("tcp", address); err == nil {
				l.Close()
			}
		case "udp":
			var c net.PacketConn
			if c, err = net.ListenPacket("udp", address); err == nil {
				c.Close()
			}
		}
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("port %s, which %s forwards, is in use: %w", address, option, err)
		}
	}
	return nil
}

// exec runs QEMU until it ends. When we are told to end, so is QEMU.
func (v *vm) exec(cmd *cobra.Command, args []string) error {
	qemu := exec.CommandContext(cmd.Context(), v.qemu, args...)
	qemu.Stdin, qemu.Stdout, qemu.Stderr = os.Stdin, cmd.OutOrStdout(), cmd.ErrOrStderr()
	qemu.Cancel = func() error { return qemu.Process.Signal(syscall.SIGTERM) }
	qemu.WaitDelay = 5 * time.Second
	err := qemu.Run()
	for _, name := range []string{qmpSocket, ctlSocket} {
		os.Remove(filepath.Join(v.state, name))
	}
	if ctxErr := context.Cause(cmd.Context()); ctxErr != nil {
		return fmt.Errorf("QEMU was ended: %w", ctxErr)
	}
	if err != nil {
		return fmt.Errorf("QEMU: %w", err)
	}
	return nil
}
