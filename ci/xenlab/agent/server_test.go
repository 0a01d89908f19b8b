// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// client connects to a server over what a virtio-serial port is to it: a
// connection without deadlines and addresses.
func client(t *testing.T) *ssh.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "port")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if port, err := l.Accept(); err == nil {
			serveOn(struct{ io.ReadWriteCloser }{port})
		}
	}()
	ours, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c, channels, requests, err := ssh.NewClientConn(ours, "", &ssh.ClientConfig{HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		t.Fatal(err)
	}
	cl := ssh.NewClient(c, channels, requests)
	t.Cleanup(func() { cl.Close() })
	return cl
}

func TestCommands(t *testing.T) {
	c := client(t)
	big := strings.Repeat("0123456789abcdef", 1<<16)
	for _, tt := range []struct {
		name, line, in, out, complaint string
		status                         int
	}{
		{"output and complaint are told apart", "echo a; echo b >&2", "", "a\n", "b\n", 0},
		{"the status is the command's", "exit 7", "", "", "", 7},
		{"a command that is not there", "/nonexistent/x 2>/dev/null", "", "", "", 127},
		{"input reaches its end", "cat", "one\ntwo", "one\ntwo", "", 0},
		{"a megabyte goes there and back", "cat", big, big, "", 0},
		{"input that nobody reads holds nothing up", "true", big, "", "", 0},
		{"what stays in the background holds nothing up", "sleep 60 & echo done", "", "done\n", "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := c.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			var out, complaint bytes.Buffer
			s.Stdin, s.Stdout, s.Stderr = strings.NewReader(tt.in), &out, &complaint
			err = s.Run(tt.line)
			status := 0
			if exit := (*ssh.ExitError)(nil); errors.As(err, &exit) {
				status = exit.ExitStatus()
			} else if err != nil {
				t.Fatal(err)
			}
			if status != tt.status || out.String() != tt.out || complaint.String() != tt.complaint {
				t.Errorf("status %d, %d bytes of output, %q; want %d, %d, %q",
					status, out.Len(), complaint.String(), tt.status, len(tt.out), tt.complaint)
			}
		})
	}
}

func TestUnixSockets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		io.Copy(c, c)
		c.Close()
	}()
	cl := client(t)
	c, err := cl.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	c.(interface{ CloseWrite() error }).CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := cl.Dial("unix", path+"none"); err == nil {
		t.Error("connected to a socket that is not there")
	}
}
