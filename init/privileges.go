// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"fmt"
	"os"

	"github.com/umbra-vm/umbra/init/internal/confine"
)

// privileges are the capabilities that each of our own programs keeps of root's; PID 1
// has them all. What each is for is in docs/security.md, which has the same table.
var privileges = map[string][]string{
	agentProgram:  {"CAP_CHOWN", "CAP_IPC_LOCK", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_SYS_MODULE"},
	deployProgram: {"CAP_SYS_ADMIN", "CAP_SYS_MODULE"},
	netProgram:    {"CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW"},
	logProgram:    {},
	ntpProgram:    {"CAP_SYS_TIME"},
	mountData:     {"CAP_SYS_ADMIN", "CAP_SYS_MODULE"},
	confirmUpdate: {"CAP_SYS_ADMIN", "CAP_SYS_MODULE"},
}

// confined is the program with no more privileges than the table has for that name.
func confined(name string, run program) program {
	return func(args []string) int {
		if err := confine.Keep(privileges[name]...); err != nil {
			fmt.Fprintf(os.Stderr, "umbra %s: not started: %v\n", name, err)
			return confine.ExitFailed
		}
		return run(args)
	}
}
