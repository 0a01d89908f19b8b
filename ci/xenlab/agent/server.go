// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/umbra-vm/umbra/ci/xenlab/internal/sshd"
)

// serveOn serves the client at the other end of port, until that has gone.
func serveOn(port io.ReadWriteCloser) error {
	config, err := sshd.Config()
	if err != nil {
		return err
	}
	// What is written before somebody has connected to the port's other end is
	// lost, so the client speaks first.
	in := bufio.NewReader(port)
	if _, err := in.Peek(1); err != nil {
		return err
	}
	_, channels, requests, err := ssh.NewServerConn(conn{in, port}, config)
	if err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	go ssh.DiscardRequests(requests)
	for ch := range channels {
		switch ch.ChannelType() {
		case "session":
			go session(ch)
		case "direct-streamlocal@openssh.com":
			go connect(ch)
		default:
			ch.Reject(ssh.UnknownChannelType, ch.ChannelType())
		}
	}
	return errors.New("the connection has ended")
}

// session runs one command, by the shell (RFC 4254, 6.5).
func session(nc ssh.NewChannel) {
	ch, requests, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	for req := range requests {
		if req.Type != "exec" {
			req.Reply(false, nil)
			continue
		}
		var exec struct{ Command string }
		if err := ssh.Unmarshal(req.Payload, &exec); err != nil {
			req.Reply(false, nil)
			continue
		}
		req.Reply(true, nil)
		status := struct{ Status uint32 }{uint32(run(ch, exec.Command))}
		ch.SendRequest("exit-status", false, ssh.Marshal(status))
		return
	}
}

// run runs a command and returns its status. What the command leaves running in
// the background does not hold it up.
func run(ch ssh.Channel, line string) int {
	cmd := exec.Command("/bin/sh", "-c", line)
	cmd.Env = environment
	cmd.Stdout, cmd.Stderr = ch, ch.Stderr()
	cmd.WaitDelay = time.Second
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(ch.Stderr(), err)
		return 127
	}
	go func() {
		io.Copy(in, ch)
		in.Close()
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		fmt.Fprintln(ch.Stderr(), err)
	}
	return cmd.ProcessState.ExitCode()
}

// connect connects the channel to a unix socket (OpenSSH's PROTOCOL, 2.4).
func connect(nc ssh.NewChannel) {
	var to struct {
		Path      string
		Reserved0 string
		Reserved1 uint32
	}
	if err := ssh.Unmarshal(nc.ExtraData(), &to); err != nil {
		nc.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	c, err := net.Dial("unix", to.Path)
	if err != nil {
		nc.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	defer c.Close()
	ch, requests, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	go ssh.DiscardRequests(requests)
	var wg sync.WaitGroup
	wg.Go(func() {
		io.Copy(ch, c)
		ch.CloseWrite()
	})
	wg.Go(func() {
		io.Copy(c, ch)
		c.(*net.UnixConn).CloseWrite()
	})
	wg.Wait()
}

// conn makes of the port what the ssh package asks for.
type conn struct {
	io.Reader
	port io.ReadWriteCloser
}

func (c conn) Write(b []byte) (int, error)      { return c.port.Write(b) }
func (c conn) Close() error                     { return c.port.Close() }
func (c conn) LocalAddr() net.Addr              { return addr{} }
func (c conn) RemoteAddr() net.Addr             { return addr{} }
func (c conn) SetDeadline(time.Time) error      { return nil }
func (c conn) SetReadDeadline(time.Time) error  { return nil }
func (c conn) SetWriteDeadline(time.Time) error { return nil }

type addr struct{}

func (addr) Network() string { return "virtio-serial" }
func (addr) String() string  { return "control port" }
