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
	"regexp"
	"strings"
	"time"

	"github.com/umbra-vm/umbra/shadow/ctl"
)

// tellPage tells what the kernel and the agent let the status page do, once it is served.
func tellPage(ctx context.Context) error {
	listening := regexp.MustCompile(`(?m)^ *\d+: 0+:238C [0:]+ 0A `) // port 9100, net/tcp_states.h
	for {
		text, _ := os.ReadFile("/proc/net/tcp6")
		if listening.Match(text) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	pid, err := pidOf("statusd")
	if err != nil {
		return err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	var may []string
	for _, m := range regexp.MustCompile(`(?m)^(Uid|Gid|NoNewPrivs|CapEff|CapBnd):\s+(\S+)`).FindAllStringSubmatch(string(text), -1) {
		may = append(may, m[1]+"="+m[2])
	}
	say("the page has %s", strings.Join(may, " "))

	conn, err := net.DialTimeout("tcp", "127.0.0.1:9100", time.Second)
	if err == nil {
		conn.Close()
	}
	say("the page on loopback: %v", err)

	for {
		err := reloadByPage(ctx)
		if remote := new(ctl.RemoteError); err == nil || errors.As(err, &remote) { // not what an agent's death is
			say("a reload asked for by the page's socket: %v", err)
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// reloadByPage asks for what the page may not ask for.
func reloadByPage(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := ctl.Dial(ctx, ctl.LookPath, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Call(ctx, ctl.CmdReload, ctl.RoleArgs{Role: role}, nil)
}
