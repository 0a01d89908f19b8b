// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package ctl

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFindPort(t *testing.T) {
	sys := t.TempDir()
	for node, name := range map[string]string{"vport0p1": "org.other", "vport0p2": PortName, "vport1p0": ""} {
		dir := filepath.Join(sys, "class/virtio-ports", node)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if name == "" { // a console port has no name
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "name"), []byte(name+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if node, err := findPort(sys, PortName); err != nil || node != "vport0p2" {
		t.Errorf("findPort = %q, %v", node, err)
	}
	for _, name := range []string{"org.umbra", "", "org.umbra.ctl\n"} {
		if node, err := findPort(sys, name); !errors.Is(err, ErrNoPort) {
			t.Errorf("findPort(%q) = %q, %v; want ErrNoPort", name, node, err)
		}
	}
	if _, err := findPort(t.TempDir(), PortName); !errors.Is(err, ErrNoPort) {
		t.Errorf("without the virtio_console driver: %v, want ErrNoPort", err)
	}
}

func TestOpenPortGivesUpWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := openPort(ctx, t.TempDir(), t.TempDir(), PortName)
	if !errors.Is(err, ErrNoPort) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want ErrNoPort and the context's error", err)
	}
}

// fifoPort is a Port on the reading end of a FIFO, which reports its writers as
// a virtio-serial port does its hosts: read returns 0 and poll EPOLLHUP while
// there is none.
func fifoPort(t *testing.T) (p *Port, connect func() *os.File) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "port")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if p, err = newPort(fd, path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, func() *os.File {
		w, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
}

func TestPortOutlivesItsHosts(t *testing.T) {
	p, connect := fifoPort(t)
	lines := make(chan string)
	failed := make(chan error, 1)
	go func() {
		r := newLineReader(p)
		for {
			line, err := r.next()
			if err != nil {
				failed <- err
				return
			}
			lines <- string(line)
		}
	}()
	for _, s := range []string{"first", "second", "third"} {
		w := connect()
		if _, err := io.WriteString(w, s+"\n"); err != nil {
			t.Fatal(err)
		}
		if got := <-lines; got != s {
			t.Errorf("read %q, want %q", got, s)
		}
		if s == "second" { // leaves in the middle of a line
			io.WriteString(w, "half")
		} else {
			io.WriteString(w, "\n")
		}
		w.Close()
		if s == "second" {
			w := connect()
			io.WriteString(w, "\nanother\n")
			w.Close()
			if got := <-lines; got != "half" {
				t.Errorf("the half line reads %q", got)
			}
			if got := <-lines; got != "another" {
				t.Errorf("after the half line: %q", got)
			}
		}
	}
	p.Close()
	if err := <-failed; !errors.Is(err, os.ErrClosed) {
		t.Errorf("a read that waits when the port is closed: %v, want os.ErrClosed", err)
	}
}

func TestPortConnected(t *testing.T) {
	p, connect := fifoPort(t)
	w := connect()
	if !p.Connected() {
		t.Error("not connected while a host is there")
	}
	w.Close()
	if p.Connected() {
		t.Error("connected after the host left")
	}
	p.Close()
	if p.Connected() {
		t.Error("connected when closed")
	}
}

func TestPortWrite(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fd, err := unix.FcntlInt(w.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	p, err := newPort(fd, "port")
	if err != nil {
		t.Fatal(err)
	}
	// More than a pipe takes at once: the write waits, and goes on.
	want := make([]byte, 1<<20)
	for i := range want {
		want[i] = byte(i * 7)
	}
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := p.Write(want)
		done <- result{n, err}
	}()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil {
		t.Fatal(err)
	}
	if res := <-done; res.n != len(want) || res.err != nil || string(got) != string(want) {
		t.Errorf("Write = %d, %v; intact: %t", res.n, res.err, string(got) == string(want))
	}

	go func() {
		_, err := p.Write(want)
		done <- result{0, err}
	}()
	io.ReadFull(r, got[:1]) // it has begun
	p.Close()
	if res := <-done; !errors.Is(res.err, os.ErrClosed) {
		t.Errorf("a write that waits when the port is closed: %v, want os.ErrClosed", res.err)
	}
}
