// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package syslog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/umbra-vm/umbra/init/notify"
)

// A Source gives the lines of all programs after the n-th, the oldest first, and waits a
// while for one if there is none and it is told to.
type Source interface {
	LogsAfter(ctx context.Context, program string, n uint64, wait bool) ([]notify.Line, error)
}

// Options of a Forwarder.
type Options struct {
	Network, Address string // "udp" or "tcp", and the server's host:port
	Hostname         string
	Source           Source
	State            string // file that has the number of the last line sent
	Logger           *slog.Logger
}

// Waits between attempts to send, doubled with each.
const (
	minWait = 100 * time.Millisecond
	maxWait = 10 * time.Second
)

// ioLimit bounds an attempt to connect or to send.
const ioLimit = 5 * time.Second

// drainLimit bounds what is sent after the context's end: the last words of services.
const drainLimit = 2 * time.Second

// A Forwarder sends lines until its context ends, and then those that are left.
type Forwarder struct {
	Options
	conn  net.Conn
	last  uint64 // number of the last line sent
	stuck bool   // it was said that lines wait
}

// Run forwards lines. It goes on where a Forwarder with the same State stopped; the lines
// of its last batch may be sent twice.
func Run(ctx context.Context, opts Options) error {
	f := &Forwarder{Options: opts}
	defer f.close()
	if err := f.load(); err != nil {
		return err
	}
	for ctx.Err() == nil {
		n, err := f.batch(ctx, true)
		if err != nil {
			return err
		}
		if n == 0 { // nobody printed a line for long, or too many wait for one
			sleep(ctx, time.Second)
		}
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainLimit)
	defer cancel()
	for {
		if n, err := f.batch(drain, false); n == 0 || err != nil {
			return err
		}
	}
}

// batch sends the lines that the source gives, and returns their number. An end of the
// context is no error.
func (f *Forwarder) batch(ctx context.Context, wait bool) (n int, err error) {
	lines, err := f.Source.LogsAfter(ctx, "", f.last, wait)
	if err != nil {
		if ctx.Err() != nil {
			return 0, nil
		}
		return 0, err
	}
	for _, l := range lines {
		if lost := l.N - f.last - 1; lost > 0 {
			report := notify.Line{N: l.N, At: l.At, From: self, Text: fmt.Sprintf("warning: %d lines were forgotten before they could be sent", lost)}
			f.Logger.Warn("lines were forgotten before they could be sent", "lines", lost)
			if !f.deliver(ctx, report) {
				return 0, nil
			}
		}
		if !f.deliver(ctx, l) {
			return 0, nil
		}
		f.last = l.N
	}
	if len(lines) == 0 {
		return 0, nil
	}
	return len(lines), f.save()
}

// deliver sends a line, again if that fails, and reports whether it was sent before the
// context's end. One that cannot be a message is left out.
func (f *Forwarder) deliver(ctx context.Context, l notify.Line) bool {
	text, err := message(f.Hostname, l)
	if err != nil {
		f.Logger.Warn("left out", "err", err)
		return true
	}
	for wait := minWait; ; wait = min(2*wait, maxWait) {
		err := f.send(ctx, framed(f.Network, text))
		if err == nil {
			return true
		}
		f.close()
		// A network that is not up yet is no news. What is said here becomes a line
		// that is to be sent, so it is said once.
		if wait == maxWait && !f.stuck {
			f.stuck = true
			f.Logger.Warn("lines for the syslog server wait", "err", err)
		}
		if !sleep(ctx, wait) {
			return false
		}
	}
}

// sleep reports whether the context is still alive after that time.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

func (f *Forwarder) send(ctx context.Context, frame []byte) error {
	if f.conn == nil {
		d := net.Dialer{Timeout: ioLimit}
		conn, err := d.DialContext(ctx, f.Network, f.Address)
		if err != nil {
			return err
		}
		f.conn = conn
	}
	if err := f.conn.SetWriteDeadline(time.Now().Add(ioLimit)); err != nil {
		return err
	}
	if _, err := f.conn.Write(frame); err != nil {
		return err
	}
	if f.stuck {
		f.stuck = false
		f.Logger.Info("the syslog server takes lines again")
	}
	return nil
}

func (f *Forwarder) close() {
	if f.conn != nil {
		f.conn.Close()
		f.conn = nil
	}
}

// load reads where a predecessor stopped.
func (f *Forwarder) load() error {
	text, err := os.ReadFile(f.State)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("syslog: %w", err)
	}
	// What cannot be read was not written to its end: all is sent once more.
	f.last, _ = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	return nil
}

func (f *Forwarder) save() error {
	if err := os.WriteFile(f.State, fmt.Appendln(nil, f.last), 0o644); err != nil {
		return fmt.Errorf("syslog: %w", err)
	}
	return nil
}
