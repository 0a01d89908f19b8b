// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/image/machine"
)

// orphanEnv makes the test binary start a machine, say its process id and wait
// to be killed.
const orphanEnv = "UMBRA_TEST_ORPHAN_KERNEL"

func TestMain(m *testing.M) {
	if kernel := os.Getenv(orphanEnv); kernel != "" {
		v, err := Start(context.Background(), machine.Machine{Kernel: kernel, MemoryMB: 16}, Options{})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(v.PID())
		select {}
	}
	os.Exit(m.Run())
}

// kernel writes a program that QEMU loads as a multiboot kernel (Multiboot
// Specification 0.6.96, 3.1.1): it prints text on the first serial port and
// then halts or, with exit, stores to an isa-debug-exit device at 0x501.
func kernel(t *testing.T, text string, exit bool) string {
	t.Helper()
	const load = 0x100000
	code := []byte{
		0xbe, 0, 0, 0, 0, // mov esi, text
		0x66, 0xba, 0xf8, 0x03, // mov dx, COM1
		0xac,       // next: lodsb
		0x84, 0xc0, // test al, al
		0x74, 0x03, // jz done
		0xee,       // out dx, al
		0xeb, 0xf8, // jmp next
	}
	if exit {
		code = append(code, 0x66, 0xba, 0x01, 0x05, 0xee) // done: mov dx, 0x501; out dx, al
	}
	code = append(code, 0xfa, 0xf4, 0xeb, 0xfd) // cli; hlt; jmp to hlt
	const header = 32
	binary.LittleEndian.PutUint32(code[1:], uint32(load+header+len(code)))
	image := append(code, text...)
	image = append(image, 0)

	const magic, flags = 0x1badb002, 1 << 16
	end := uint32(load + header + len(image))
	var b bytes.Buffer
	for _, v := range []uint32{magic, flags, -(magic + flags) & 0xffffffff, load, load, end, end, load + header} {
		binary.Write(&b, binary.LittleEndian, v)
	}
	b.Write(image)
	path := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func start(t *testing.T, ctx context.Context, m machine.Machine, opts Options) *VM {
	t.Helper()
	m.MemoryMB = 16
	v, err := Start(ctx, m, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

func TestMachineIsHeardFromItsFirstByte(t *testing.T) {
	ctx := testContext(t)
	var log strings.Builder
	seen := make(chan string, 2)
	v := start(t, ctx, machine.Machine{Name: "talker", Kernel: kernel(t, "hello\r\nworld\r\n", false)},
		Options{Log: &log, OnLine: func(l Line) { seen <- l.Text }})
	if l, err := v.WaitConsole(ctx, "^world$"); err != nil || l.N != 1 {
		t.Fatalf("WaitConsole = %+v, %v", l, err)
	}
	if a, b := <-seen, <-seen; a != "hello" || b != "world" {
		t.Errorf("OnLine got %q and %q", a, b)
	}
	if s, err := v.QMP.Status(ctx); err != nil || s != "running" {
		t.Errorf("status %q, %v", s, err)
	}
	if _, err := os.Stat(v.Machine.Ctl); err != nil {
		t.Errorf("no control socket: %v", err)
	}
	dir := v.tempDir
	if err := v.Quit(ctx); err != nil {
		t.Errorf("Quit: %v", err)
	}
	if log.String() != "hello\r\nworld\r\n" {
		t.Errorf("log %q", log.String())
	}
	if _, err := v.WaitConsole(ctx, "more"); !errors.Is(err, ErrNotSeen) {
		t.Errorf("WaitConsole of an ended machine = %v", err)
	}
	v.Close()
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the sockets' directory is still there: %v", err)
	}
}

func TestExitStatusIsReported(t *testing.T) {
	ctx := testContext(t)
	v := start(t, ctx, machine.Machine{Name: "quitter", Kernel: kernel(t, "bye\n", true),
		Extra: []string{"-device", "isa-debug-exit,iobase=0x501,iosize=1"}}, Options{})
	err := v.Wait(ctx)
	var exit *ExitError
	if !errors.As(err, &exit) || !errors.Is(err, ErrExited) || exit.State != "exit status 1" || exit.Name != "quitter" {
		t.Errorf("Wait = %v", err)
	}
	if l := v.Console.Tail(1); len(l) != 1 || l[0].Text != "bye" {
		t.Errorf("console %v", l)
	}
}

func TestStartFails(t *testing.T) {
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, bytes.Repeat([]byte{1}, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name    string
		machine machine.Machine
		opts    Options
		is      error
		says    string
	}{
		{"a machine that cannot be described", machine.Machine{}, Options{}, machine.ErrInvalid, "ernel"},
		{"a program that is not there", machine.Machine{Kernel: garbage}, Options{Program: "/nonexistent/qemu"}, os.ErrNotExist, "/nonexistent/qemu"},
		{"a device that is none: QEMU's own words", machine.Machine{Kernel: garbage, Extra: []string{"-device", "flux-capacitor"}},
			Options{}, ErrExited, "'flux-capacitor' is not a valid device model name"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v, err := Start(testContext(t), tc.machine, tc.opts)
			if err == nil {
				v.Close()
				t.Fatal("it started")
			}
			if !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("Start: %v", err)
			}
		})
	}
}

func TestMachineEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(testContext(t))
	v := start(t, ctx, machine.Machine{Kernel: kernel(t, "hello\n", false)}, Options{})
	cancel()
	<-v.Done()
	if err := v.Wait(context.Background()); err != nil {
		t.Errorf("Wait after a kill on purpose = %v", err)
	}
}

func TestMachineDoesNotOutliveItsParent(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), orphanEnv+"="+kernel(t, "hello\n", false))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("the parent said %q", line)
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatalf("the machine does not run: %v", err)
	}
	cmd.Process.Kill() // no chance to clean up
	cmd.Wait()
	ctx := testContext(t)
	for running(pid) {
		select {
		case <-ctx.Done():
			syscall.Kill(pid, syscall.SIGKILL)
			t.Fatal("the machine outlived its parent")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// running tells whether pid is a process that is not a zombie: an orphan's
// zombie stays where nobody reaps it, as in a container without an init.
func running(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}
