// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xenlab

import (
	"io"
	"net"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/umbra-vm/umbra/ci/xenlab/internal/sshd"
)

// Serve lets the system's ssh reach dom0 by way of l, until that is closed: what is asked
// of the port is asked of dom0's agent. There is no password and no key: l belongs where
// nobody else comes.
func (h *Host) Serve(l net.Listener) error {
	config, err := sshd.Config()
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go h.serve(c, config)
	}
}

func (h *Host) serve(c net.Conn, config *ssh.ServerConfig) {
	defer c.Close()
	_, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for ch := range channels {
		go h.pass(ch)
	}
}

// pass opens the same channel to dom0, and carries what goes over it.
func (h *Host) pass(nc ssh.NewChannel) {
	there, answers, err := h.client.OpenChannel(nc.ChannelType(), nc.ExtraData())
	if err != nil {
		nc.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	defer there.Close()
	here, requests, err := nc.Accept()
	if err != nil {
		return
	}
	defer here.Close()
	go func() {
		carry(there, here)
		there.CloseWrite()
	}()
	go func() {
		repeat(there, requests)
		there.Close() // the client has gone
	}()
	var wg sync.WaitGroup
	wg.Go(func() { carry(here, there) })
	wg.Go(func() { carry(here.Stderr(), there.Stderr()) })
	wg.Wait()
	here.CloseWrite()
	repeat(here, answers)
}

// carry ends when either side does, which the other is told by the channel's end.
func carry(to io.Writer, from io.Reader) { _, _ = io.Copy(to, from) }

// repeat asks of one side what the other one asks.
func repeat(to ssh.Channel, requests <-chan *ssh.Request) {
	for r := range requests {
		ok, err := to.SendRequest(r.Type, r.WantReply, r.Payload)
		if r.WantReply {
			r.Reply(ok && err == nil, nil)
		}
	}
}
