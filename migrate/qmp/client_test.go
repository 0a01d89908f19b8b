// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}` + "\n"

// monitor is a fake QEMU. Its handler is given each command and writes what it
// likes.
type monitor struct {
	conn net.Conn
	mu   sync.Mutex
}

type request struct {
	ID      string          `json:"id"`
	Execute string          `json:"execute"`
	Args    json.RawMessage `json:"arguments"`
}

func (m *monitor) say(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fmt.Fprintf(m.conn, format+"\n", args...)
}

func (m *monitor) reply(r request, value string) {
	m.say(`{"return": %s, "id": %q}`, value, r.ID)
}

// connect returns a client of a monitor which answers the handshake itself and
// leaves the rest to handle.
func connect(t *testing.T, handle func(*monitor, request)) (*Client, *monitor) {
	t.Helper()
	here, there := net.Pipe()
	m := &monitor{conn: there}
	t.Cleanup(func() { there.Close() })
	go func() {
		io.WriteString(there, greeting)
		lines := bufio.NewScanner(there)
		for lines.Scan() {
			var r request
			if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
				t.Errorf("monitor got %q: %v", lines.Bytes(), err)
				return
			}
			if r.Execute == "qmp_capabilities" {
				m.reply(r, "{}")
				continue
			}
			handle(m, r)
		}
	}()
	c, err := New(testContext(t), here)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, m
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestExecute(t *testing.T) {
	long := strings.Repeat("x", 300<<10)
	c, _ := connect(t, func(m *monitor, r request) {
		switch r.Execute {
		case "query-status":
			m.reply(r, `{"status": "running", "singlestep": false}`)
		case "human-monitor-command":
			m.reply(r, fmt.Sprintf("%q", string(r.Args)))
		case "long":
			m.reply(r, fmt.Sprintf("%q", long))
		case "odd":
			m.reply(r, `[1, 2]`)
		default:
			m.say(`{"id": %q, "error": {"class": "CommandNotFound", "desc": "The command %s has not been found"}}`, r.ID, r.Execute)
		}
	})
	ctx := testContext(t)
	if got := fmt.Sprint(c.Version); got != "7.2.22" {
		t.Errorf("version %s", got)
	}
	if s, err := c.Status(ctx); s != "running" || err != nil {
		t.Errorf("status %q, %v", s, err)
	}
	if s, err := c.Human(ctx, "info pic"); s != `{"command-line":"info pic"}` || err != nil {
		t.Errorf("arguments arrived as %q, %v", s, err)
	}
	var s string
	if err := c.Execute(ctx, "long", nil, &s); s != long || err != nil {
		t.Errorf("reply of %d bytes became %d, %v", len(long), len(s), err)
	}
	if err := c.Execute(ctx, "odd", nil, &s); !errors.Is(err, ErrProtocol) {
		t.Errorf("reply of another type: error %v", err)
	}
	err := c.Execute(ctx, "frobnicate", nil, nil)
	var e *Error
	var op *OpError
	if !errors.As(err, &e) || e.Class != ClassCommandNotFound || !errors.As(err, &op) || op.Op != "frobnicate" {
		t.Errorf("refused command: error %#v", err)
	}
	if want := "qmp pipe: frobnicate: CommandNotFound: The command frobnicate has not been found"; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	if !Refused(err) {
		t.Error("a refused command is not Refused")
	}
}

func TestRepliesOutOfOrder(t *testing.T) {
	var first request
	c, _ := connect(t, func(m *monitor, r request) {
		if r.Execute == "one" {
			first = r
			return
		}
		m.reply(r, `"two"`)
		m.reply(first, `"one"`)
	})
	ctx := testContext(t)
	one := make(chan string, 1)
	go func() {
		var s string
		c.Execute(ctx, "one", nil, &s)
		one <- s
	}()
	// "two" must be sent second, or the monitor has nothing to answer first.
	for len(pending(c)) == 0 {
		time.Sleep(time.Millisecond)
	}
	var two string
	if err := c.Execute(ctx, "two", nil, &two); err != nil || two != "two" {
		t.Errorf("two: %q, %v", two, err)
	}
	if s := <-one; s != "one" {
		t.Errorf("one: %q", s)
	}
}

func pending(c *Client) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	for id := range c.pending {
		ids = append(ids, id)
	}
	return ids
}

func TestAbandonedCommandDoesNotDisturbTheNext(t *testing.T) {
	var slow request
	asked := make(chan struct{})
	c, _ := connect(t, func(m *monitor, r request) {
		if r.Execute == "slow" {
			slow = r
			close(asked)
			return
		}
		m.reply(slow, `"late"`)
		m.reply(r, `"in time"`)
	})
	ctx, cancel := context.WithCancelCause(testContext(t))
	enough := errors.New("enough")
	go func() { <-asked; cancel(enough) }()
	if err := c.Execute(ctx, "slow", nil, nil); !errors.Is(err, enough) || Refused(err) {
		t.Errorf("error %v, want the context's cause", err)
	}
	if err := c.Execute(ctx, "never sent", nil, nil); !errors.Is(err, enough) {
		t.Errorf("error %v, want the context's cause", err)
	}
	var s string
	if err := c.Execute(testContext(t), "next", nil, &s); s != "in time" || err != nil {
		t.Errorf("next command got %q, %v", s, err)
	}
}

func TestQEMUGoes(t *testing.T) {
	for _, tt := range []struct {
		name   string
		handle func(*monitor, request)
		want   error
	}{
		{"dies with a command under way", func(m *monitor, _ request) { m.conn.Close() }, ErrGone},
		{"talks nonsense", func(m *monitor, _ request) { m.say("Segmentation fault") }, ErrProtocol},
		{"never stops talking", func(m *monitor, _ request) {
			io.WriteString(m.conn, strings.Repeat(" ", maxMessage+1))
		}, bufio.ErrTooLong},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := connect(t, tt.handle)
			ctx := testContext(t)
			events := c.Subscribe()
			waited := make(chan error, 1)
			go func() {
				_, err := events.Next(ctx)
				waited <- err
			}()
			if err := c.Execute(ctx, "query-status", nil, nil); !errors.Is(err, tt.want) {
				t.Errorf("command under way: error %v, want %v", err, tt.want)
			}
			if err := <-waited; !errors.Is(err, tt.want) {
				t.Errorf("wait for an event: error %v, want %v", err, tt.want)
			}
			<-c.Done()
			if err := c.Err(); !errors.Is(err, tt.want) {
				t.Errorf("Err is %v, want %v", err, tt.want)
			}
			if err := c.Execute(ctx, "query-status", nil, nil); !errors.Is(err, tt.want) {
				t.Errorf("next command: error %v, want %v", err, tt.want)
			}
		})
	}
}

func TestClose(t *testing.T) {
	c, _ := connect(t, func(*monitor, request) {})
	c.Close()
	c.Close()
	if err := c.Execute(testContext(t), "query-status", nil, nil); !errors.Is(err, ErrClosed) || errors.Is(err, ErrGone) {
		t.Errorf("error %v, want %v", err, ErrClosed)
	}
}

// A monitor that does not read any more holds nobody beyond his context.
func TestStalledMonitor(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	go func() {
		io.WriteString(there, greeting)
		line, _ := bufio.NewReader(there).ReadString('\n')
		var r request
		json.Unmarshal([]byte(line), &r)
		fmt.Fprintf(there, `{"return": {}, "id": %q}`+"\n", r.ID)
	}()
	c, err := New(testContext(t), here)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := c.Execute(ctx, "query-status", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want %v", err, context.DeadlineExceeded)
	}
}

func TestEvents(t *testing.T) {
	c, m := connect(t, func(m *monitor, r request) {
		m.say(`{"event": "MIGRATION", "data": {"status": "setup"}, "timestamp": {"seconds": 1700000000, "microseconds": 250000}}`)
		m.reply(r, "{}")
		m.say(`{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}`)
		m.say(`{"event": "MIGRATION", "data": {"status": "active"}, "timestamp": {"seconds": 1, "microseconds": 3}}`)
	})
	ctx := testContext(t)
	all, some := c.Subscribe(), c.Subscribe("STOP")
	if err := c.Execute(ctx, "migrate", nil, nil); err != nil {
		t.Fatal(err)
	}
	e, err := all.Wait(ctx, func(e Event) bool { return e.Text("status") == "active" })
	if err != nil || e.Event.Event != "MIGRATION" {
		t.Errorf("got %v, %v", e, err)
	}
	if e, err := some.Next(ctx); err != nil || e.Event.Event != "STOP" || e.Text("status") != "" {
		t.Errorf("got %v, %v", e, err)
	}
	if e, ok := some.TryNext(); ok {
		t.Errorf("got %v, want no more", e)
	}
	some.Close()
	go m.say(`{"event": "STOP", "timestamp": {"seconds": 1700000000, "microseconds": 250000}}`)
	e, err = all.Next(ctx)
	if want := time.Unix(1700000000, 250e6); err != nil || !e.Time().Equal(want) {
		t.Errorf("time %v, %v; want %v", e.Time(), err, want)
	}
	if e, ok := some.TryNext(); ok {
		t.Errorf("closed subscription got %v", e)
	}
}

func TestWaitEventGivesUp(t *testing.T) {
	c, _ := connect(t, func(*monitor, request) {})
	_, err := c.WaitEvent(testContext(t), "RESUME", time.Millisecond)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no RESUME event within 1ms") {
		t.Errorf("error %v", err)
	}
}

// Nobody reads the events, and the monitor goes on.
func TestUnreadEventsDoNotHoldTheMonitorUp(t *testing.T) {
	const many = 4 * eventBacklog
	c, _ := connect(t, func(m *monitor, r request) {
		for i := range many {
			m.say(`{"event": "NIC_RX_FILTER_CHANGED", "data": {"name": "%d"}}`, i)
		}
		m.reply(r, "{}")
	})
	s := c.Subscribe()
	if err := c.Execute(testContext(t), "query-status", nil, nil); err != nil {
		t.Fatal(err)
	}
	if want := many - eventBacklog; s.Lost() != want {
		t.Errorf("lost %d, want %d", s.Lost(), want)
	}
	for i := many - eventBacklog; i < many; i++ {
		e, ok := s.TryNext()
		if !ok || e.Text("name") != fmt.Sprint(i) {
			t.Fatalf("event %d is %v, %v", i, e, ok)
		}
	}
}

func TestNotAMonitor(t *testing.T) {
	for _, hello := range []string{"SSH-2.0-OpenSSH_9.2\n", "{}\n", ""} {
		here, there := net.Pipe()
		go func() {
			io.WriteString(there, hello)
			there.Close()
		}()
		_, err := New(testContext(t), here)
		want := ErrProtocol
		if hello == "" {
			want = ErrGone
		}
		if !errors.Is(err, want) {
			t.Errorf("greeting %q: error %v, want %v", hello, err, want)
		}
	}
	here, there := net.Pipe()
	defer there.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := New(ctx, here); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("silent monitor: error %v", err)
	}
}

func TestDialWaitsForTheSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "qmp")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no socket: error %v", err)
	}
	got := make(chan error, 1)
	go func() {
		c, err := Dial(testContext(t), path)
		if err == nil {
			c.Close()
		}
		got <- err
	}()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, greeting)
	line, _ := bufio.NewReader(conn).ReadString('\n')
	var r request
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, `{"return": {}, "id": %q}`+"\n", r.ID)
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// FuzzMonitor lets a client listen to anything at all. It must neither panic nor
// hang, and either answer a command or say why not.
func FuzzMonitor(f *testing.F) {
	const ok = `{"return": {}, "id": "1"}` + "\n"
	f.Add([]byte(greeting + ok + `{"return": {"status": "running"}, "id": "2"}` + "\n"))
	f.Add([]byte(greeting + ok + `{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}` + "\n"))
	f.Add([]byte(greeting + ok + `{"error": {"class": "GenericError", "desc": "no"}, "id": "2"}` + "\n"))
	f.Add([]byte(greeting + ok + `{"id": 2}` + "\n" + `[]` + "\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		here, there := net.Pipe()
		go io.Copy(io.Discard, there)
		go func() {
			there.Write(in)
			there.Close()
		}()
		c, err := New(context.Background(), here)
		if err != nil {
			return
		}
		defer c.Close()
		s := c.Subscribe()
		var op *OpError
		if _, err := c.Status(context.Background()); err != nil && !errors.As(err, &op) {
			t.Errorf("error %v", err)
		}
		for {
			if _, err := s.Next(context.Background()); err != nil {
				break
			}
		}
	})
}
