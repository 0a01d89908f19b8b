// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Init is everything umbra runs in a guest, in one binary that looks at the
// name it was called by:
//
//	(as process 1)          mounts, supervises, reaps, powers off
//	shadowd                 the agent: loads drivers, keeps roles alive
//	deploy                  finds what is configured at deploy time, once
//	netcfgd                 configures the interfaces of network roles
//	mount-data              mounts the disk for data, once it is there
//	confirm-update          has a new version prove itself, or leaves it
//	ntpd                    keeps the clock right
//	logd                    sends what programs print to a syslog server
//	exec-service            gives up privileges and becomes a service
//	shadowctl               shows what the shadow knows, for people and tools
//	poweroff, reboot, halt  ask process 1
//
// "init NAME ARG..." is the same as "NAME ARG...".
package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/umbra-vm/umbra/init/internal/confine"
	"github.com/umbra-vm/umbra/init/internal/kmsg"
)

// version is set by the image builder (-ldflags -X).
var version = "devel"

// Names of programs that PID 1 starts. The others have theirs beside them.
const (
	agentProgram = "shadowd"
	netProgram   = "netcfgd"
	logProgram   = "logd"
	ntpProgram   = "ntpd"
)

// A program is what the binary is under one name. It returns its exit code.
type program func(args []string) int

func programs() map[string]program {
	return map[string]program{
		agentProgram:  confined(agentProgram, shadowd),
		netProgram:    confined(netProgram, netcfgd),
		deployProgram: confined(deployProgram, gather),
		logProgram:    confined(logProgram, logd),
		ntpProgram:    confined(ntpProgram, ntpd),
		mountData:     confined(mountData, keepData),
		confirmUpdate: confined(confirmUpdate, confirmVersion),
		"shadowctl":   shadowctl,
		"poweroff":    askPower,
		"reboot":      askPower,
		"halt":        askPower,

		confine.Helper: confine.Main,
	}
}

func main() {
	if os.Getpid() == 1 {
		beInit() // never returns
	}
	name, args := filepath.Base(os.Args[0]), os.Args[1:]
	table := programs()
	if table[name] == nil && len(args) > 0 {
		name, args = args[0], args[1:]
	}
	run := table[name]
	if run == nil {
		names := make([]string, 0, len(table))
		for n := range table {
			names = append(names, n)
		}
		slices.Sort(names)
		fmt.Fprintf(os.Stderr, "umbra init %s: not process 1, and %q is none of %s\n", version, name, strings.Join(names, ", "))
		os.Exit(2)
	}
	os.Exit(run(append([]string{name}, args...)))
}

// daemonLogger returns the logger of a daemon: to the kernel's log, and to
// standard error, which PID 1 brings to the console.
func daemonLogger(name string, debug bool) *slog.Logger {
	sinks := []kmsg.Sink{func(_ slog.Level, line string) { fmt.Fprintln(os.Stderr, line) }}
	if k, err := kmsg.Open("umbra " + name); err == nil {
		sinks = append(sinks, k.Print)
	}
	return slog.New(kmsg.NewHandler(level(debug), sinks...))
}

func level(debug bool) slog.Level {
	if debug {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}
