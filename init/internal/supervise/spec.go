// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package supervise

import (
	"os"
	"time"

	"github.com/umbra-vm/umbra/init/internal/cgroup"
)

// Spec describes one supervised program.
type Spec struct {
	Name string
	Path string   // what is executed
	Argv []string // Argv[0] included
	Env  []string // K=V
	Dir  string

	Needs   []string // names that must be up before each start: see Supervisor.SetRole
	Restart Policy
	Backoff Backoff

	// Provides, unless empty, is a name that is up from the program's first start on. It
	// is up from its first end without a failure on if the program is a Oneshot.
	Provides string
	Oneshot  bool

	// Limits, unless nil, give the program a control group of its own: what it leaves
	// behind is killed before it is started again.
	Limits *cgroup.Limits

	// Stage orders the stop: programs of a higher stage are stopped first, and of a
	// stage those first that need others.
	Stage int
	// StopTimeout is how long the program may take from SIGTERM to its
	// end; then it gets SIGKILL.
	StopTimeout time.Duration

	// KeepsFDs programs are handed the descriptors of the store at every
	// start.
	KeepsFDs bool
	// OOMScoreAdj is written to /proc/PID/oom_score_adj unless 0; -1000
	// keeps the kernel from killing it when memory is short.
	OOMScoreAdj int
	// Terminal, unless empty, is the tty the program gets as its standard
	// input, output and error and as its controlling terminal.
	Terminal string
}

// A FileKeeper lends descriptors that outlive a program. Lend calls start with
// the descriptors, and what to put into the environment so that the program
// knows them; they are valid until start returns.
type FileKeeper interface {
	Lend(start func(fds []int, env []string) error) error
}

// Output returns where a program's standard output and error go, and a channel
// that is closed when everything written to it was taken. The caller closes
// the file after the start.
type Output func(name string) (w *os.File, drained <-chan struct{}, err error)
