// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package syslog

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/umbra-vm/umbra/init/notify"
)

var at = time.Date(2026, 11, 27, 1, 2, 3, 4_000_000, time.FixedZone("", 3600))

func line(n uint64, text string) notify.Line {
	return notify.Line{N: n, At: at, From: "app", Text: text}
}

func TestMessage(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"a program's line is information of a daemon", "up", "<30>1 2026-11-27T00:02:03.004Z guest app - - - up"},
		{"a warning is one", "warning: net0: x", "<28>1 2026-11-27T00:02:03.004Z guest app - - - warning: net0: x"},
		{"so is an error", "error: x", "<27>1 2026-11-27T00:02:03.004Z guest app - - - error: x"},
		{"an empty line is a message", "", "<30>1 2026-11-27T00:02:03.004Z guest app - - -"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := message("guest", line(1, tt.text))
			if err != nil || string(got) != tt.want {
				t.Errorf("message %q, %v\nwant    %q", got, err, tt.want)
			}
		})
	}
	if got, err := message("guest", line(1, strings.Repeat("x", 3000))); err != nil || len(got) != maxBytes {
		t.Errorf("a long line is a message of %d bytes, %v", len(got), err)
	}
	if got := string(framed("tcp", []byte("message"))); got != "7 message" {
		t.Errorf("framed for TCP: %q", got)
	}
	if got := string(framed("udp", []byte("message"))); got != "message" {
		t.Errorf("framed for UDP: %q", got)
	}
}

// book is a Source of lines that are all there. Who waits for more waits for the end.
type book []notify.Line

func (b book) LogsAfter(ctx context.Context, _ string, n uint64, wait bool) ([]notify.Line, error) {
	for i, l := range b {
		if l.N > n {
			return b[i:min(i+2, len(b))], nil // few at once, as PID 1 does
		}
	}
	if wait {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return nil, nil
}

// texts are what messages say at their end.
func texts(messages []string) []string {
	var out []string
	for _, m := range messages {
		_, text, _ := strings.Cut(m, " - - - ")
		out = append(out, text)
	}
	return out
}

// forward runs a Forwarder until the server has got n messages, and returns these.
func forward(t *testing.T, network string, listen func() (addr net.Addr, read func() (string, error)), b book, state string, n int) []string {
	t.Helper()
	addr, read := listen()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Options{
			Network: network, Address: addr.String(), Hostname: "guest", Source: b, State: state, Logger: slog.New(slog.DiscardHandler),
		})
	}()
	var got []string
	for range n {
		m, err := read()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return got
}

func udp(t *testing.T) func() (net.Addr, func() (string, error)) {
	return func() (net.Addr, func() (string, error)) {
		conn, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn.LocalAddr(), func() (string, error) {
			buf := make([]byte, 4096)
			n, _, err := conn.ReadFrom(buf)
			return string(buf[:n]), err
		}
	}
}

// tcp listens for one connection.
func tcp(t *testing.T) func() (net.Addr, func() (string, error)) {
	return func() (net.Addr, func() (string, error)) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		var r *bufio.Reader
		return l.Addr(), func() (string, error) {
			if r == nil {
				conn, err := l.Accept()
				if err != nil {
					return "", err
				}
				t.Cleanup(func() { conn.Close() })
				r = bufio.NewReader(conn)
			}
			var size int
			if _, err := fmt.Fscanf(r, "%d ", &size); err != nil {
				return "", err
			}
			buf := make([]byte, size)
			_, err := io.ReadFull(r, buf)
			return string(buf), err
		}
	}
}

func TestLinesArrive(t *testing.T) {
	b := book{line(1, "a"), line(2, "b"), line(3, "c")}
	for network, listen := range map[string]func() (net.Addr, func() (string, error)){"udp": udp(t), "tcp": tcp(t)} {
		t.Run(network, func(t *testing.T) {
			state := filepath.Join(t.TempDir(), "last")
			got := texts(forward(t, network, listen, b, state, 3))
			if diff := cmp.Diff([]string{"a", "b", "c"}, got); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
			// A successor goes on behind them.
			got = texts(forward(t, network, listen, append(b, line(4, "d")), state, 1))
			if diff := cmp.Diff([]string{"d"}, got); diff != "" {
				t.Errorf("a successor's lines (-want +got):\n%s", diff)
			}
		})
	}
}

func TestForgottenLinesAreCounted(t *testing.T) {
	b := book{line(3, "c"), line(4, "d"), line(9, "i")}
	got := texts(forward(t, "udp", udp(t), b, filepath.Join(t.TempDir(), "last"), 5))
	want := []string{
		"warning: 2 lines were forgotten before they could be sent", "c", "d",
		"warning: 4 lines were forgotten before they could be sent", "i",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

// late is a Source that has its lines only for one who does not wait: they come while the
// guest goes off.
type late struct{ book }

func (l late) LogsAfter(ctx context.Context, program string, n uint64, wait bool) ([]notify.Line, error) {
	if wait {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return l.book.LogsAfter(ctx, program, n, wait)
}

func TestLastWordsAreSent(t *testing.T) {
	addr, read := udp(t)()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Run(ctx, Options{
		Network: "udp", Address: addr.String(), Hostname: "guest", Source: late{book{line(1, "a"), line(2, "b"), line(3, "c")}},
		State: filepath.Join(t.TempDir(), "last"), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a", "b", "c"} {
		if m, err := read(); err != nil || !strings.HasSuffix(m, " "+want) {
			t.Errorf("message %q, %v, want %s", m, err, want)
		}
	}
}

func TestASourceThatFailsEndsIt(t *testing.T) {
	bad := errors.New("bad")
	err := Run(t.Context(), Options{Source: failing{bad}, State: filepath.Join(t.TempDir(), "last"), Logger: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, bad) {
		t.Errorf("error %v", err)
	}
}

type failing struct{ err error }

func (f failing) LogsAfter(context.Context, string, uint64, bool) ([]notify.Line, error) {
	return nil, f.err
}
