// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/umbra-vm/umbra/drivers/kmod"
)

// tellTrust tells what umbra's programs may do, who hears the network, and what the kernel
// says to a root who wants to change it.
func tellTrust() error {
	for _, program := range []string{"shadowd", "netcfgd", "logd", "ntpd"} {
		pid, err := pidOf(program)
		if err != nil {
			return err
		}
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		if err != nil || len(tasks) == 0 {
			return fmt.Errorf("threads of %s: %v", program, err)
		}
		for _, task := range tasks {
			text, err := os.ReadFile(task)
			if err != nil {
				continue // it has ended
			}
			var may []string
			for _, m := range regexp.MustCompile(`(?m)^(CapPrm|CapBnd|NoNewPrivs):\s+(\S+)`).FindAllStringSubmatch(string(text), -1) {
				may = append(may, m[1]+"="+m[2])
			}
			say("%s may %s", program, strings.Join(may, " "))
		}
	}
	if err := tellListeners(); err != nil {
		return err
	}
	modules, err := filepath.Glob("/modules/*.ko")
	if err != nil {
		return err
	}
	for _, m := range modules {
		say("%s: %v", filepath.Base(m), load(m))
	}
	f, err := os.OpenFile("/dev/mem", os.O_RDWR, 0)
	if err == nil {
		f.Close()
	}
	say("kernel's memory: %v", err)
	say("configuration space: %v", pokeConfig("/sys/bus/pci/devices/0000:00:00.0/config"))
	say("trust is told")
	return nil
}

func load(module string) error {
	f, err := os.Open(module)
	if err != nil {
		return err
	}
	defer f.Close()
	return kmod.Linux{}.InitModule(f, "")
}

// pokeConfig writes a vendor id, which no device lets anybody change.
func pokeConfig(name string) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	id := make([]byte, 2)
	if _, err := f.ReadAt(id, 0); err != nil {
		return err
	}
	_, err = f.WriteAt(id, 0)
	return err
}

// Of a socket that takes what anybody sends, in /proc/net (net/tcp_states.h).
const (
	tcpListen      = "0A"
	udpUnconnected = "07"
)

// tellListeners tells of every socket that takes what anybody sends over a network, and
// whose it is.
func tellListeners() error {
	for _, kind := range []string{"tcp", "tcp6", "udp", "udp6", "raw", "raw6"} {
		f, err := os.Open("/proc/net/" + kind)
		if err != nil {
			return err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			if len(fields) < 10 || fields[0] == "sl" {
				continue
			}
			local, state, inode := fields[1], fields[3], fields[9]
			if strings.HasPrefix(kind, "tcp") && state != tcpListen || strings.HasPrefix(kind, "udp") && state != udpUnconnected {
				continue
			}
			say("hears %s %s: %s", kind, port(local), owner(inode))
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	text, err := os.ReadFile("/proc/net/packet")
	if err != nil {
		return err
	}
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n")[1:] {
		fields := strings.Fields(line)
		say("hears packet %s: %s", fields[3], owner(fields[8]))
	}
	return nil
}

// port is that of an address in /proc/net, ADDRESS:PORT in hex.
func port(address string) string {
	var n uint16
	if _, err := fmt.Sscanf(address[strings.LastIndex(address, ":")+1:], "%X", &n); err != nil {
		return address
	}
	return fmt.Sprint(n)
}

// owner is the program that has the socket open.
func owner(inode string) string {
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return err.Error()
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err != nil || to != "socket:["+inode+"]" {
			continue
		}
		argv, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(fd)), "cmdline"))
		if err != nil {
			continue
		}
		name, _, _ := strings.Cut(string(argv), "\x00")
		return filepath.Base(name)
	}
	return "the kernel"
}
