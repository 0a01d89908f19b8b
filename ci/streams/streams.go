// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package streams is both ends of one TCP connection of each kind that a recovery can
// interrupt: one side sends without end, or one side asks and the other answers. The
// kernels' TCP is what is looked at; so the program in the two guests does as little
// as it can, and who is on the wire between them measures.
//
// It must not know that anybody moves.
package streams

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// A Kind is one of the connections. Who dials is the guest that moves, who listens
// its peer.
type Kind struct {
	Name string
	Port uint16 // of the peer
	// FromGuest and ToGuest say which way there is something to be transported.
	FromGuest, ToGuest bool

	dial, listen end
}

// An end serves its end of a connection until that fails.
type end func(net.Conn) error

// Kinds are all of them.
func Kinds() []Kind {
	return []Kind{
		{"guest → peer", 7101, true, false, send, discard},
		{"peer → guest", 7102, false, true, discard, send},
		{"guest asks", 7103, true, true, ask, answer},
		{"peer asks", 7104, true, true, answer, ask},
	}
}

const (
	chunk    = 8 << 10 // bytes that a stream sends at once
	question = 64      // bytes of a question, and of an answer
	// pause is between two chunks, or an answer and the next question: there is
	// always something on its way, and an emulated processor is not all taken up.
	pause = 10 * time.Millisecond
)

// What the program says on the console.
const (
	Waiting = "streams: waiting" // it is about to listen
	Ready   = "streams: all connected"
	Failed  = "streams failed:" // with a connection's error
)

// ErrEnded says that the other side has ended a connection, which it never should.
var ErrEnded = errors.New("the other side has ended the connection")

// Dial connects to a peer, tries again until it listens, calls ready, and serves the
// connections until one of them fails or ctx ends.
func Dial(ctx context.Context, peer netip.Addr, ready func()) error {
	var conns []net.Conn
	for _, k := range Kinds() {
		c, err := dial(ctx, netip.AddrPortFrom(peer, k.Port).String())
		if err != nil {
			return fmt.Errorf("%s: %w", k.Name, err)
		}
		conns = append(conns, c)
	}
	ready()
	return serve(ctx, conns, func(k Kind) end { return k.dial })
}

func dial(ctx context.Context, addr string) (net.Conn, error) {
	for {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil || ctx.Err() != nil {
			return c, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Listen accepts one connection of each kind, calls ready, and serves them until one
// fails or ctx ends.
func Listen(ctx context.Context, ready func()) error {
	var conns []net.Conn
	for _, k := range Kinds() {
		l, err := net.Listen("tcp", ":"+strconv.Itoa(int(k.Port)))
		if err != nil {
			return fmt.Errorf("%s: %w", k.Name, err)
		}
		unhook := context.AfterFunc(ctx, func() { l.Close() })
		c, err := l.Accept()
		unhook()
		l.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", k.Name, err)
		}
		conns = append(conns, c)
	}
	ready()
	return serve(ctx, conns, func(k Kind) end { return k.listen })
}

// serve runs one end of every connection. The first error ends all.
func serve(ctx context.Context, conns []net.Conn, side func(Kind) end) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, len(conns))
	for i, k := range Kinds() {
		context.AfterFunc(ctx, func() { conns[i].Close() })
		wg.Go(func() {
			defer cancel()
			if err := side(k)(conns[i]); ctx.Err() == nil {
				errs[i] = fmt.Errorf("%s: %w", k.Name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func send(c net.Conn) error {
	b := make([]byte, chunk)
	for {
		if _, err := c.Write(b); err != nil {
			return err
		}
		time.Sleep(pause)
	}
}

func discard(c net.Conn) error {
	if _, err := io.Copy(io.Discard, c); err != nil {
		return err
	}
	return ErrEnded
}

func ask(c net.Conn) error {
	b := make([]byte, question)
	for {
		if _, err := c.Write(b); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		time.Sleep(pause)
	}
}

func answer(c net.Conn) error {
	b := make([]byte, question)
	for {
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		if _, err := c.Write(b); err != nil {
			return err
		}
	}
}
