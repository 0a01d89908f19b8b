// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Command nemesis does to a guest, from within, what its users and its bad
// luck do. Each word of the kernel's command line that begins with "nemesis="
// is one deed:
//
//	nemesis=kill@STAMP  kill -9 the agent when a recovery has reached STAMP
//	nemesis=kill@now    kill -9 the agent when the network is up
//	nemesis=kill@carried  kill -9 the agent when a standby serves the role alone
//	nemesis=kill@A,B    kill -9 the agent at A, and its successor at B
//	nemesis=end@PROGRAM kill -9 another daemon when a program has a connection
//	nemesis=root        tell what queueing discipline is at the root of the proxy, once
//	                    somebody is connected, whenever that changes
//	nemesis=settings    change settings of the proxy and of its device, and
//	                    tell what they are whenever that changes
//	nemesis=mac         give the proxy another MAC, and tell which it and its
//	                    device have whenever that changes
//	nemesis=ipv6        tell what addresses and gateways of IPv6 the proxy has
//	                    whenever that changes
//	nemesis=way@ADDRESS tell whether what is sent to ADDRESS goes through the proxy or
//	                    around it whenever that changes, and whether routes are left;
//	                    way@ADDRESS@PROXY is of another proxy
//	nemesis=page        tell what the program of the status page may do, and where
//	                    else it can be reached
//	nemesis=trust       tell what umbra's programs may do, who hears the network, and
//	                    what the kernel refuses to root
//	nemesis=told        say what was configured at deploy time
//	nemesis=run@PROGRAM run the tests in /bin/PROGRAM, with the agent stopped
//
// Others stack interfaces on the proxy, one after the other, and then run a witness
// on each; PLACE is its address and its peer, as in 10.42.0.10/24,10.42.0.1:7000:
//
//	nemesis=vlan@PLACE      on VLAN 42
//	nemesis=macvlan@PLACE   in a namespace with a macvlan in private mode
//	nemesis=macbridge@PLACE in a namespace with a macvlan in bridge mode
//	nemesis=macidle         nobody, in a namespace with a macvlan
//	nemesis=routed@PLACE    in a namespace that the guest is the router of
//	nemesis=bridge@ADDRESS  nobody: the proxy becomes a port of a bridge, which is
//	                        given ADDRESS when all is stacked
//	nemesis=container@PLACE in a namespace behind the bridge
//	nemesis=idle@PLACE      nobody, behind the bridge, once a datagram is sent
//
// What has to be done before anybody sends it is told by arguments, and it ends when that
// is done:
//
//	do qdisc  put a pfifo at the root of the proxy, as a user may; what is sent meanwhile
//	          the kernel refuses
//
// What it does it says on the console. It uses the agent's public door, the
// control socket, and nothing else of umbra.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/umbra-vm/umbra/shadow/ctl"
	"golang.org/x/sys/unix"
)

// role is the role whose proxy and device it plagues.
const role = "net0"

func main() {
	if len(os.Args) == 3 && os.Args[1] == "do" { // other arguments are what sayTold is about
		if err := do(context.Background(), os.Args[2]); err != nil {
			say("%s: %v", os.Args[2], err)
			os.Exit(1)
		}
		return
	}
	words, err := deeds()
	if err != nil {
		say("%v", err)
		os.Exit(1)
	}
	ctx := context.Background()
	words = stackUp(ctx, words)
	for _, w := range words {
		go func() {
			if err := do(ctx, w); err != nil {
				say("%s: %v", w, err)
			}
		}()
	}
	for {
		time.Sleep(time.Hour)
	}
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

func deeds() (words []string, err error) {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, err
	}
	for _, w := range strings.Fields(string(line)) {
		if deed, ok := strings.CutPrefix(w, "nemesis="); ok {
			words = append(words, deed)
		}
	}
	return words, nil
}

func do(ctx context.Context, deed string) error {
	verb, at, _ := strings.Cut(deed, "@")
	switch verb {
	case "kill":
		return kill(ctx, at)
	case "end":
		connected()
		return end(at)
	case "qdisc":
		return takeRoot()
	case "root":
		connected()
		return tellRoot(ctx)
	case "mac":
		connected()
		return changeMAC(ctx)
	case "ipv6":
		return tellIPv6(ctx)
	case "way":
		return tellWay(ctx, at)
	case "page":
		return tellPage(ctx)
	case "trust":
		return tellTrust()
	case "told":
		return sayTold()
	case "run":
		return runTests(ctx, at)
	case "settings":
		connected()
		return changeSettings(ctx)
	}
	return fmt.Errorf("no such deed")
}

// kill kills an agent at each of the places, one after the other.
func kill(ctx context.Context, places string) error {
	for at := range strings.SplitSeq(places, ",") {
		if err := killAt(ctx, at); err != nil {
			return err
		}
	}
	return nil
}

// killAt kills the agent as soon as it tells of a recovery that has reached the
// stamp and is not over.
func killAt(ctx context.Context, stamp string) error {
	due := map[string]func(context.Context) bool{
		"now":     func(context.Context) bool { return true },
		"carried": func(ctx context.Context) bool { return roleIs(ctx, carried) },
	}[stamp]
	if due == nil {
		due = func(ctx context.Context) bool { return reached(ctx, stamp) }
	}
	for !due(ctx) {
		time.Sleep(50 * time.Millisecond) // it has been asked for long, or there is no hurry
	}
	if err := end("shadowd"); err != nil {
		return err
	}
	say("killed the agent at %s", stamp)
	return nil
}

func end(program string) error {
	pid, err := pidOf(program)
	if err != nil {
		return err
	}
	return unix.Kill(pid, unix.SIGKILL)
}

func passive(r ctl.RoleStatus) bool { return r.Mode == ctl.ModePassive }

// carried is when it is known that there is no device, and not as long as one is looked for.
func carried(r ctl.RoleStatus) bool {
	return passive(r) && r.OnStandby && r.Device == "" && strings.Contains(r.Message, "no net device")
}

// roleIs reports whether the role is as is says.
func roleIs(ctx context.Context, is func(ctl.RoleStatus) bool) bool {
	return withAgent(ctx, func(ctx context.Context, c *ctl.Client) bool {
		var st ctl.Status
		err := c.Call(ctx, ctl.CmdStatus, nil, &st)
		return err == nil && slices.ContainsFunc(st.Roles, func(r ctl.RoleStatus) bool { return r.Name == role && is(r) })
	})
}

func reached(ctx context.Context, stamp string) bool {
	return withAgent(ctx, func(ctx context.Context, c *ctl.Client) bool {
		for {
			var tls []ctl.Timeline
			if err := c.Call(ctx, ctl.CmdTimeline, ctl.RoleArgs{Role: role}, &tls); err != nil {
				return false
			}
			for _, tl := range tls {
				if _, ok := tl.Stamp(stamp); ok && tl.Recovery == 0 && tl.Cause != "boot" {
					return true
				}
			}
			time.Sleep(3 * time.Millisecond)
		}
	})
}

// withAgent returns what ask finds out from the agent, false if that cannot be reached.
func withAgent(ctx context.Context, ask func(context.Context, *ctl.Client) bool) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := ctl.Dial(ctx, ctl.SocketPath, nil)
	if err != nil {
		return false
	}
	defer c.Close()
	return ask(ctx, c)
}

func pidOf(program string) (int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, d := range dirs {
		b, err := os.ReadFile(d)
		argv0, _, _ := strings.Cut(string(b), "\x00")
		if err == nil && filepath.Base(argv0) == program {
			return strconv.Atoi(filepath.Base(filepath.Dir(d)))
		}
	}
	return 0, fmt.Errorf("no process %s", program)
}
