// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package supervise_test

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/init/internal/supervise"
	"golang.org/x/sys/unix"
)

// The tests start real processes and share one Reaper, as PID 1 does: there is
// one wait4 in a process.
var reaper = supervise.NewReaper()

func TestMain(m *testing.M) {
	// Orphans come to us, as they do to PID 1.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go reaper.Run()
	os.Exit(m.Run())
}

func sh(t *testing.T, script string) *supervise.Process {
	t.Helper()
	p, err := reaper.Start("/bin/sh", []string{"sh", "-c", script}, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestReaperTellsEnds(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		want         supervise.Exit
	}{
		{"an exit code", "exit 7", supervise.Exit{Code: 7}},
		{"success", "true", supervise.Exit{}},
		{"a signal", "kill -9 $$", supervise.Exit{Signal: unix.SIGKILL}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := sh(t, tt.script)
			<-p.Done()
			if p.Exit() != tt.want {
				t.Errorf("exit %v, want %v", p.Exit(), tt.want)
			}
			if err := p.Signal(unix.SIGTERM); !errors.Is(err, supervise.ErrEnded) {
				t.Errorf("signal after the end: %v, want ErrEnded", err)
			}
		})
	}
}

func TestManyThatEndAtOnceAreAllReaped(t *testing.T) {
	var ps []*supervise.Process
	for range 50 {
		ps = append(ps, sh(t, "exit 3"))
	}
	for _, p := range ps {
		<-p.Done()
		if p.Exit().Code != 3 {
			t.Errorf("exit %v", p.Exit())
		}
	}
}

func TestOrphansAreReaped(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	before := reaper.Adopted()
	// The grandchild gets a session of its own, so that it is not killed
	// with its parent's group, and outlives its parent.
	p, err := reaper.Start("/bin/sh", []string{"sh", "-c", "setsid sh -c 'read line' <&3 & exit 0"},
		&syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2, r.Fd()}})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	w.Close() // lets the orphan end
	for reaper.Adopted() == before {
		time.Sleep(time.Millisecond)
	}
}

func TestWhatAProcessLeavesInItsGroupDiesWithIt(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := reaper.Start("/bin/sh", []string{"sh", "-c", "sleep 1000 & exit 0"},
		&syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, w.Fd(), w.Fd()}})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	<-p.Done()
	// The pipe ends when the last process that holds it is gone.
	if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d, %v from a process that should be dead", n, err)
	}
}

// world is a Supervisor whose programs' lines arrive on a channel, as
// "name: line".
type world struct {
	*supervise.Supervisor
	lines chan string
}

func newWorld(t *testing.T, files supervise.FileKeeper) world {
	w := world{lines: make(chan string, 1000)}
	w.Supervisor = supervise.New(supervise.Config{
		Reaper: reaper, Files: files, Env: []string{"PATH=/bin:/usr/bin"}, Logger: slog.New(slog.DiscardHandler),
		Output: func(name string) (*os.File, <-chan struct{}, error) {
			r, out, err := os.Pipe()
			if err != nil {
				return nil, nil, err
			}
			drained := make(chan struct{})
			go func() {
				defer close(drained)
				defer r.Close()
				for s := bufio.NewScanner(r); s.Scan(); {
					w.lines <- name + ": " + s.Text()
				}
			}()
			return out, drained, nil
		},
	})
	t.Cleanup(w.Stop)
	return w
}

func (w world) want(t *testing.T, lines ...string) {
	t.Helper()
	for _, want := range lines {
		if got := <-w.lines; got != want {
			t.Fatalf("got line %q, want %q", got, want)
		}
	}
}

func script(name, text string) supervise.Spec {
	return supervise.Spec{
		Name: name, Path: "/bin/sh", Argv: []string{"sh", "-c", text}, Dir: "/",
		Restart: supervise.Always, Backoff: supervise.Backoff{Min: time.Millisecond, Max: time.Millisecond},
		StopTimeout: 10 * time.Second,
	}
}

// await waits until the status of a program is as it should be.
func (w world) await(t *testing.T, name string, ok func(supervise.Status) bool) {
	t.Helper()
	for {
		for _, st := range w.Status() {
			if st.Name == name && ok(st) {
				return
			}
		}
		time.Sleep(time.Millisecond)
	}
}

func TestAProgramThatEndsIsStartedAgain(t *testing.T) {
	w := newWorld(t, nil)
	w.Add(script("a", "echo on; exit 1"))
	w.want(t, "a: on", "a: on", "a: on")
}

func TestAProgramThatIsKilledIsStartedAgain(t *testing.T) {
	w := newWorld(t, nil)
	w.Add(script("a", "echo on; exec sleep 1000"))
	for range 3 {
		w.want(t, "a: on")
		var pid int
		w.await(t, "a", func(st supervise.Status) bool { pid = st.PID; return st.State == supervise.Running })
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		w.await(t, "a", func(st supervise.Status) bool { return st.PID != pid })
	}
}

func TestExit125IsNotStartedAgain(t *testing.T) {
	w := newWorld(t, nil)
	w.Add(script("a", "echo on; exit 125"))
	w.await(t, "a", func(st supervise.Status) bool { return st.State == supervise.Ended })
	w.Add(script("b", "echo on; exec sleep 1000"))
	w.want(t, "a: on", "b: on")
	w.await(t, "b", func(st supervise.Status) bool { return st.State == supervise.Running })
	for _, st := range w.Status() {
		if st.Starts != 1 {
			t.Errorf("%s was started %d times", st.Name, st.Starts)
		}
	}
}

func TestAServiceHasTheLastWordOnItsEnvironment(t *testing.T) {
	w := newWorld(t, nil)
	spec := script("a", "tr '\\0' ' ' </proc/self/environ; echo; exec sleep 1000")
	spec.Env = []string{"HOME=/x", "PATH=/usr/bin:/bin", "HOME=/y"}
	w.Add(spec)
	w.want(t, "a: PATH=/usr/bin:/bin HOME=/y ")
}

func TestAProgramThatCannotBeStartedIsTriedAgain(t *testing.T) {
	w := newWorld(t, nil)
	dir := t.TempDir()
	spec := script("a", "")
	spec.Path = dir + "/prog"
	w.Add(spec)
	w.await(t, "a", func(st supervise.Status) bool { return st.Series > 1 })
	if err := os.WriteFile(spec.Path, []byte("#!/bin/sh\necho here\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.want(t, "a: here")
}

func TestAProgramWaitsForItsRoles(t *testing.T) {
	w := newWorld(t, nil)
	spec := script("a", "echo on; exec sleep 1000")
	spec.Needs = []string{"net0", "net1"}
	w.Add(spec)
	w.SetRole("net0", true)
	w.Add(script("b", "echo on; exec sleep 1000"))
	w.want(t, "b: on") // and not a
	w.SetRole("net1", true)
	w.want(t, "a: on")

	// A network that goes down stops nobody.
	w.SetRole("net0", false)
	w.Add(script("c", "echo on; exec sleep 1000"))
	w.want(t, "c: on")
	w.await(t, "c", func(st supervise.Status) bool { return st.State == supervise.Running })
	for _, st := range w.Status() {
		if st.State != supervise.Running || st.Starts != 1 {
			t.Errorf("%+v, want it running since its first start", st)
		}
	}
}

func TestAProgramWaitsForWhatAnotherProvides(t *testing.T) {
	w := newWorld(t, nil)
	late := script("late", "echo on; exec sleep 1000")
	late.Needs = []string{"prepare/done", "server/up"}
	w.Add(late)
	server := script("server", "echo on; exec sleep 1000")
	server.Provides = "server/up"
	w.Add(server)
	w.want(t, "server: on")

	// A oneshot is done when it has ended well, and not before.
	file := filepath.Join(t.TempDir(), "again")
	prepare := script("prepare", fmt.Sprintf("echo on; [ -e %s ] && exit 0; touch %s; exit 1", file, file))
	prepare.Provides, prepare.Oneshot, prepare.Restart = "prepare/done", true, supervise.OnFailure
	w.Add(prepare)
	w.want(t, "prepare: on", "prepare: on", "late: on")
}

func TestAOneshotThatLeavesNothingToDoIsDone(t *testing.T) {
	w := newWorld(t, nil)
	prepare := script("prepare", "exit 125")
	prepare.Provides, prepare.Oneshot = "prepare/done", true
	w.Add(prepare)
	late := script("late", "echo on; exec sleep 1000")
	late.Needs = []string{"prepare/done"}
	w.Add(late)
	w.want(t, "late: on")
}

func TestStopGoesByStages(t *testing.T) {
	w := newWorld(t, nil)
	// Lines of different programs come in any order; what is appended to a file does not.
	file := filepath.Join(t.TempDir(), "stopped")
	for stage, name := range []string{"shadow", "network", "service"} {
		spec := script(name, fmt.Sprintf("exec 2>/dev/null; trap 'echo %s >>%s; exit 0' TERM; echo on; while :; do sleep 0.01; done", name, file))
		spec.Stage = stage
		w.Add(spec)
		w.want(t, name+": on")
	}
	w.Stop()
	if stopped, err := os.ReadFile(file); err != nil || string(stopped) != "service\nnetwork\nshadow\n" {
		t.Errorf("stopped in the order %q, %v", stopped, err)
	}
	w.Add(script("late", "echo on"))
	if n := len(w.Status()); n != 3 {
		t.Errorf("%d programs after the stop, want 3", n)
	}
}

func TestStopKillsWhoDoesNotListen(t *testing.T) {
	w := newWorld(t, nil)
	spec := script("deaf", "trap '' TERM; echo on; while :; do sleep 1; done")
	spec.StopTimeout = 10 * time.Millisecond
	w.Add(spec)
	w.want(t, "deaf: on")
	w.Stop()
	if st := w.Status()[0]; st.State != supervise.Stopped || st.PID != 0 {
		t.Errorf("status %+v, want it stopped", st)
	}
}

func TestStopEndsTheWaitForARoleAndTheBackOff(t *testing.T) {
	w := newWorld(t, nil)
	waits := script("waits", "echo on")
	waits.Needs = []string{"net0"}
	w.Add(waits)
	backs := script("backs", "exit 1")
	backs.Backoff = supervise.Backoff{Min: time.Hour, Max: time.Hour}
	w.Add(backs)
	w.await(t, "backs", func(st supervise.Status) bool { return st.State == supervise.Backing })
	w.Stop()
	for _, st := range w.Status() {
		if st.State != supervise.Stopped {
			t.Errorf("status %+v, want it stopped", st)
		}
	}
}

// lender lends one descriptor.
type lender struct{ f *os.File }

func (l lender) Lend(start func([]int, []string) error) error {
	return start([]int{int(l.f.Fd())}, []string{"KEPT=" + l.f.Name()})
}

func TestKeptDescriptorsAreHandedOver(t *testing.T) {
	name := t.TempDir() + "/kept"
	if err := os.WriteFile(name, []byte("kept content\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() }) // after the Supervisor's stop
	w := newWorld(t, lender{f})
	spec := script("heir", `echo "$KEPT"; cat <&3; exec sleep 1000`)
	spec.KeepsFDs = true
	w.Add(spec)
	w.want(t, "heir: "+name, "heir: kept content")
	w.Add(script("other", `echo "${KEPT-none}"; [ -e /proc/self/fd/3 ] || echo closed; exec sleep 1000`))
	w.want(t, "other: none", "other: closed")
}

func TestExitString(t *testing.T) {
	for exit, want := range map[supervise.Exit]string{
		{Code: 3}:              "exit code 3",
		{Signal: unix.SIGSEGV}: "signal 11",

		{Signal: unix.SIGKILL, OutOfMemory: true}: "signal 9 (killed), at its limit of memory",
	} {
		if got := exit.String(); !strings.HasPrefix(got, want) {
			t.Errorf("%#v is %q, want %q", exit, got, want)
		}
	}
}
