// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Subject is a service of the tests, several times over: it does what its first
// argument says, and prints what it sees of its own place in the guest.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// poll is the pause between looks at what changes by itself.
const poll = 20 * time.Millisecond

func main() {
	acts := map[string]func(args []string) error{
		"prepare": prepare, "keep": keep, "deaf": deaf, "nothing": nothing, "self": self,
		"write": write, "hungry": hungry, "fork": fork, "spin": spin, "leave": leave, "gone": gone, "data": data,
	}
	if len(os.Args) < 2 || acts[os.Args[1]] == nil {
		fmt.Println("subject: want one of its acts")
		os.Exit(2)
	}
	if err := acts[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Println(os.Args[1]+":", err)
		os.Exit(1)
	}
}

// prepare takes its time, so that who does not wait for it is before it.
func prepare([]string) error {
	time.Sleep(10 * poll)
	fmt.Println("prepared")
	return nil
}

func keep([]string) error {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	fmt.Println("runs")
	<-term
	fmt.Println("stops")
	return nil
}

func deaf([]string) error {
	signal.Ignore(syscall.SIGTERM)
	fmt.Println("does not listen")
	for {
		time.Sleep(time.Hour)
	}
}

func nothing([]string) error {
	fmt.Println("nothing to do")
	os.Exit(125)
	return nil
}

// self prints who it is, what it may do, and its limits.
func self([]string) error {
	groups, err := os.Getgroups()
	if err != nil {
		return err
	}
	fmt.Println("user", os.Getuid(), "group", os.Getgid(), "groups", groups, os.Getenv("USER"), os.Getenv("HOME"))
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		if name, value, _ := strings.Cut(line, ":"); strings.HasPrefix(name, "Cap") || name == "NoNewPrivs" {
			fmt.Println(name, strings.TrimSpace(value))
		}
	}
	dir, err := group()
	if err != nil {
		return err
	}
	for _, file := range []string{"memory.max", "cpu.max", "cpu.weight", "pids.max"} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		fmt.Println(file, strings.TrimSpace(string(text)))
	}
	l, err := net.Listen("tcp", ":80")
	fmt.Println("port 80:", err)
	if err == nil {
		l.Close()
	}
	fmt.Println("another's directory:", create("/root"))
	fmt.Println("its own:", create("/var/lib/self"), create("/run/self"))
	return keep(nil)
}

// group returns the directory of its control group.
func group() (string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	path, ok := strings.CutPrefix(strings.TrimSpace(string(text)), "0::")
	if !ok {
		return "", fmt.Errorf("control group %q", text)
	}
	return filepath.Join("/sys/fs/cgroup", path), nil
}

// create makes a file in a directory.
func create(dir string) error {
	return os.WriteFile(filepath.Join(dir, "subject"), nil, 0o600)
}

func write(dirs []string) error {
	for _, dir := range dirs {
		fmt.Println("write:", dir, errors.Unwrap(create(dir)))
	}
	return keep(nil)
}

// hungry takes memory until it gets no more.
func hungry([]string) error {
	fmt.Println("hungry")
	var all [][]byte
	for {
		b := make([]byte, 1<<20)
		for i := range b {
			b[i] = 1
		}
		all = append(all, b)
		if len(all) > 200 {
			return errors.New("has had enough")
		}
	}
}

// fork starts processes until it may not. They end, but it does not want to know.
func fork([]string) error {
	for n := 0; ; n++ {
		cmd := exec.Command(os.Args[0], "nothing")
		if err := cmd.Start(); err != nil {
			fmt.Println("some children:", n > 0 && n < 100, errors.Is(err, syscall.EAGAIN))
			return keep(nil)
		}
	}
}

// spin computes until the scheduler has told it to wait.
func spin([]string) error {
	dir, err := group()
	if err != nil {
		return err
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "cpu.stat"))
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			if n, ok := strings.CutPrefix(line, "nr_throttled "); ok && strings.TrimSpace(n) != "0" {
				fmt.Println("was throttled")
				return keep(nil)
			}
		}
	}
}

// left has the number of a process that was left behind.
const left = "/run/subject.left"

// leave leaves a process behind, in a session of its own.
func leave([]string) error {
	cmd := exec.Command(os.Args[0], "deaf")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	return os.WriteFile(left, []byte(strconv.Itoa(cmd.Process.Pid)), 0o600)
}

// gone waits until the process that was left behind is no more.
func gone([]string) error {
	text, err := os.ReadFile(left)
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		return err
	}
	for syscall.Kill(pid, 0) == nil {
		time.Sleep(poll)
	}
	fmt.Println("nobody is left")
	return nil
}
