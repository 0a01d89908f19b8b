// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// testHandlers answer what the tests ask.
func testHandlers() map[string]Handler {
	return map[string]Handler{
		"echo": func(_ context.Context, args json.RawMessage) (any, error) { return args, nil },
		"role": Handle(func(_ context.Context, a RoleArgs) (any, error) {
			if a.Role == "net9" {
				return nil, errors.New("no role net9")
			}
			return "role=" + a.Role, nil
		}),
		"big":       func(context.Context, json.RawMessage) (any, error) { return strings.Repeat("x", 500_000), nil },
		"huge":      func(context.Context, json.RawMessage) (any, error) { return strings.Repeat("x", MaxLine), nil },
		"nothing":   func(context.Context, json.RawMessage) (any, error) { return nil, nil },
		"unsayable": func(context.Context, json.RawMessage) (any, error) { return func() {}, nil },
		"wait": func(ctx context.Context, _ json.RawMessage) (any, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
	}
}

// serve runs a server on a unix socket until the test ends, and fails the test
// if it does not end cleanly then.
func serve(t *testing.T) (*Server, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(testHandlers(), nil)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, path
}

func dial(t *testing.T, path string, onEvent func(Event)) *Client {
	t.Helper()
	c, err := Dial(context.Background(), path, onEvent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestCall(t *testing.T) {
	_, path := serve(t)
	c := dial(t, path, nil)
	tests := []struct {
		name string
		cmd  string
		args any
		want string
		code string // of the error, if one is wanted
		says string // what the error says
	}{
		{"arguments reach the handler", "role", RoleArgs{"net0"}, "role=net0", "", ""},
		{"absent arguments are zero", "role", nil, "role=", "", ""},
		{"an unknown argument is refused by name", "role", map[string]int{"rôle": 1}, "", CodeBadRequest, `"rôle"`},
		{"a handler's error is answered", "role", RoleArgs{"net9"}, "", CodeFailed, "no role net9"},
		{"an unknown command is told what there is", "rolle", nil, "", CodeUnknownCommand, "role"},
		{"a reply over the bound is an error", "huge", nil, "", CodeTooLong, "at most 1048576"},
		{"a reply that JSON cannot say is an error", "unsayable", nil, "", CodeFailed, "unsupported type"},
		{"no data leaves the result alone", "nothing", nil, "", "", ""},
		{"a large reply arrives whole", "big", nil, strings.Repeat("x", 500_000), "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got string
			err := c.Call(t.Context(), tt.cmd, tt.args, &got)
			var remote *RemoteError
			switch {
			case tt.code == "" && err != nil:
				t.Fatal(err)
			case tt.code != "" && (!errors.As(err, &remote) || remote.Code != tt.code || !strings.Contains(err.Error(), tt.says)):
				t.Errorf("error %v, want code %s and %q in it", err, tt.code, tt.says)
			}
			if got != tt.want {
				t.Errorf("got %.40q (%d bytes), want %.40q", got, len(got), tt.want)
			}
		})
	}
	if err := c.Call(t.Context(), "echo", strings.Repeat("x", MaxLine), nil); !errors.Is(err, ErrTooLong) {
		t.Errorf("a request over the bound: %v, want ErrTooLong", err)
	}
	if err := c.Call(t.Context(), "echo", 5, new(string)); err == nil {
		t.Error("an answer of another type was taken")
	}
}

// A raw peer sends what a client would not, and reads the lines that come back.
func TestServerAnswers(t *testing.T) {
	tests := []struct {
		name string
		send string
		want []string
	}{
		{"ids come back as they were sent", `{"id":7,"cmd":"echo","args":[1]}` + "\n", []string{`{"id":7,"ok":true,"data":[1]}`}},
		{"what is not JSON is answered with id 0 and the next line is served",
			"{]\n" + `{"id":1,"cmd":"nothing"}` + "\n",
			[]string{`{"ok":false,"code":"bad-request","error":"invalid character ']' looking for beginning of object key string"}`, `{"id":1,"ok":true}`}},
		{"half a request of a host that went away is ended by the newline of the next",
			`{"id":3,"cm` + "\n" + `{"id":1,"cmd":"nothing"}` + "\n",
			[]string{`{"ok":false,"code":"bad-request","error":"unexpected end of JSON input"}`, `{"id":1,"ok":true}`}},
		{"empty lines are nothing", "\n\n \r\n" + `{"id":1,"cmd":"nothing"}` + "\r\n", []string{`{"id":1,"ok":true}`}},
		{"a line over the bound is answered and skipped",
			strings.Repeat("x", 3*MaxLine) + "\n" + `{"id":1,"cmd":"nothing"}` + "\n",
			[]string{`{"ok":false,"code":"too-long","error":"line too long: at most 1048576 bytes"}`, `{"id":1,"ok":true}`}},
		{"a readable id of an unreadable request comes back", `{"id":4,"cmd":5}` + "\n",
			[]string{`{"id":4,"ok":false,"code":"bad-request","error":"json: cannot unmarshal number into Go struct field request.cmd of type string"}`}},
		{"a last line without newline is not served", `{"id":1,"cmd":"nothing"}`, []string{}},
		{"who stops sending gets the replies to what was sent", strings.Repeat(`{"id":2,"cmd":"nothing"}`+"\n", 100),
			slicesRepeat(`{"id":2,"ok":true}`, 100)},
	}
	_, path := serve(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, tt.send); err != nil {
				t.Fatal(err)
			}
			if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			all, err := io.ReadAll(conn)
			if err != nil {
				t.Fatal(err)
			}
			if len(all) > 0 && all[0] != '\n' {
				t.Error("the first line does not start with a newline")
			}
			if diff := cmp.Diff(tt.want, strings.FieldsFunc(string(all), func(r rune) bool { return r == '\n' })); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func slicesRepeat(s string, n int) (out []string) {
	for range n {
		out = append(out, s)
	}
	return out
}

func TestSlowCommandDelaysNoOther(t *testing.T) {
	_, path := serve(t)
	c := dial(t, path, nil)
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error)
	go func() { waiting <- c.Call(ctx, "wait", nil, nil) }()
	for range 3 {
		if err := c.Call(t.Context(), "nothing", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Errorf("a call whose context ended: %v", err)
	}
	if err := c.Call(t.Context(), "nothing", nil, nil); err != nil {
		t.Errorf("a call after one that was given up: %v", err)
	}
}

func TestConcurrentClients(t *testing.T) {
	_, path := serve(t)
	var wg sync.WaitGroup
	for i := range 8 {
		c := dial(t, path, nil)
		for k := range 4 {
			wg.Go(func() {
				for n := range 25 {
					want := fmt.Sprint(i, k, n)
					var got string
					if err := c.Call(t.Context(), "echo", want, &got); err != nil || got != want {
						t.Errorf("got %q, %v; want %q", got, err, want)
						return
					}
				}
			})
		}
	}
	wg.Wait()
}

func TestEvents(t *testing.T) {
	s, path := serve(t)
	events := make(chan Event, 2)
	for range 2 {
		c := dial(t, path, func(e Event) { events <- e })
		if err := c.Call(t.Context(), "nothing", nil, nil); err != nil { // it is connected now
			t.Fatal(err)
		}
	}
	if err := s.Event("recovery", RoleArgs{"net0"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if e := <-events; e.Name != "recovery" || string(e.Data) != `{"role":"net0"}` {
			t.Errorf("event %s %s", e.Name, e.Data)
		}
	}
	if err := s.Event("huge", strings.Repeat("x", MaxLine)); !errors.Is(err, ErrTooLong) {
		t.Errorf("an event over the bound: %v, want ErrTooLong", err)
	}
}

// A client that sends and never reads holds up neither events nor others.
func TestDeafClient(t *testing.T) {
	s, path := serve(t)
	deaf, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	go io.WriteString(deaf, strings.Repeat(`{"id":1,"cmd":"big"}`+"\n", 200))
	c := dial(t, path, nil)
	for range 2 * maxQueued {
		if err := s.Event("tick", nil); err != nil {
			t.Fatal(err)
		}
		if err := c.Call(t.Context(), "nothing", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// Who may speak with an agent is a matter of its sockets' modes.
func TestSocketsAreForTheirUserAndNobodyElse(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		rule   string
		listen func(path string) (net.Listener, error)
		mode   os.FileMode
	}{
		{"for the user alone", Listen, 0o600},
		{"for a group, too", func(path string) (net.Listener, error) { return ListenFor(path, os.Getgid()) }, 0o660},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			path := filepath.Join(dir, "agent.sock")
			for range 2 { // the second in the place of one that was killed
				l, err := tt.listen(path)
				if err != nil {
					t.Fatal(err)
				}
				l.(*net.UnixListener).SetUnlinkOnClose(false)
				defer l.Close()
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := info.Mode().Perm(); got != tt.mode || int(info.Sys().(*syscall.Stat_t).Gid) != os.Getgid() {
				t.Errorf("mode %v of %+v, want %v", got, info.Sys(), tt.mode)
			}
		})
	}
}

func TestServerEndsWithItsContext(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- NewServer(testHandlers(), nil).ServeConn(ctx, near) }()
	// A handler is running and a reply is being written that nobody takes.
	if _, err := io.WriteString(far, `{"id":1,"cmd":"wait"}`+"\n"+`{"id":1,"cmd":"nothing"}`+"\n"); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("ServeConn: %v", err)
	}
	if _, err := far.Write([]byte("x")); err == nil {
		t.Error("the connection is still open")
	}
}

// fakeAgent is the far end of a client in the test's hand.
func fakeAgent(t *testing.T, onEvent func(Event)) (*Client, net.Conn, *lineReader) {
	t.Helper()
	near, far := net.Pipe()
	c := NewClient(near, onEvent)
	t.Cleanup(func() { c.Close(); far.Close() })
	return c, far, newLineReader(far)
}

// What is queued on a port from another host's time must not be taken for an
// answer.
func TestClientFindsItsFeet(t *testing.T) {
	events := make(chan Event, 1)
	c, far, lines := fakeAgent(t, func(e Event) { events <- e })
	result := make(chan error, 1)
	var got string
	go func() { result <- c.Call(t.Context(), "status", nil, &got) }()
	line, err := lines.next()
	if err != nil {
		t.Fatal(err)
	}
	var req request
	if err := json.Unmarshal(line, &req); err != nil || req.Cmd != "status" {
		t.Fatalf("request %s: %v", line, err)
	}
	for _, s := range []string{
		`e":"the end of another host's reply"}` + "\n",
		`{"id":1,"ok":true,"data":"to another host"}` + "\n",
		`{"ok":false,"error":"about another host's request"}` + "\n",
		fmt.Sprintf(`{"id":%d,"data":"no reply"}`, req.ID) + "\n",
		"null\n[]\n7\n",
		strings.Repeat("x", MaxLine+1) + "\n",
		`{"event":"recovery","data":1}` + "\n",
		`{"id":9,"ok":tr`, // the agent was killed here
		"\n" + fmt.Sprintf(`{"id":%d,"ok":true,"data":"mine"}`, req.ID) + "\n",
	} {
		if _, err := io.WriteString(far, s); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-result; err != nil || got != "mine" {
		t.Errorf("got %q, %v", got, err)
	}
	if e := <-events; e.Name != "recovery" {
		t.Errorf("event %v", e)
	}
}

func TestClientIdsStartAnywhere(t *testing.T) {
	seen := make(map[uint64]bool)
	for range 4 {
		c, _, lines := fakeAgent(t, nil)
		go c.Call(t.Context(), "status", nil, nil)
		line, err := lines.next()
		if err != nil {
			t.Fatal(err)
		}
		var req request
		if err := json.Unmarshal(line, &req); err != nil {
			t.Fatal(err)
		}
		if req.ID == 0 || req.ID > 1<<53 || seen[req.ID] {
			t.Errorf("id %d", req.ID)
		}
		seen[req.ID] = true
	}
}

func TestClientStartsWithANewline(t *testing.T) {
	near, far := net.Pipe()
	c := NewClient(near, nil)
	defer far.Close()
	defer c.Close()
	go c.Call(t.Context(), "status", nil, nil)
	b := make([]byte, 1)
	if _, err := io.ReadFull(far, b); err != nil || b[0] != '\n' {
		t.Errorf("first byte %q, %v", b, err)
	}
}

func TestClientEnds(t *testing.T) {
	tests := []struct {
		name string
		end  func(c *Client, far net.Conn)
	}{
		{"when the agent goes away", func(_ *Client, far net.Conn) { far.Close() }},
		{"when it is closed", func(c *Client, _ net.Conn) { c.Close() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, far, lines := fakeAgent(t, nil)
			result := make(chan error, 1)
			go func() { result <- c.Call(t.Context(), "status", nil, nil) }()
			if _, err := lines.next(); err != nil {
				t.Fatal(err)
			}
			tt.end(c, far)
			if err := <-result; !errors.Is(err, ErrClosed) {
				t.Errorf("the call under way: %v, want ErrClosed", err)
			}
			if err := c.Call(t.Context(), "status", nil, nil); !errors.Is(err, ErrClosed) {
				t.Errorf("a later call: %v, want ErrClosed", err)
			}
		})
	}
}

func TestClientContext(t *testing.T) {
	c, _, _ := fakeAgent(t, nil) // an agent that does not even read
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if err := c.Call(ctx, "status", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want the context's error", err)
		}
		cancel()
	}
}

func TestListenReplacesAStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "s")
	for range 2 {
		l, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false) // as when killed
		l.Close()
	}
}

func FuzzServer(f *testing.F) {
	f.Add([]byte(`{"id":7,"cmd":"echo","args":[1]}` + "\n"))
	f.Add([]byte("{]\n\n\x00\n{\"id\":18446744073709551615,\"cmd\":\"role\",\"args\":{\"role\":\"net9\"}}\n"))
	f.Add([]byte(`{"id":-1,"cmd":"role"}` + "\n" + `{"cmd":null,"args":{}}` + "\nnull\n"))
	handlers := testHandlers()
	delete(handlers, "wait")
	s := NewServer(handlers, nil)
	f.Fuzz(func(t *testing.T, in []byte) {
		rwc := &buffer{in: strings.NewReader(string(in))}
		if err := s.ServeConn(t.Context(), rwc); err != nil {
			t.Fatal(err)
		}
		requests := 0
		for _, l := range strings.Split(string(in[:strings.LastIndexByte(string(in), '\n')+1]), "\n") {
			if strings.TrimSpace(l) != "" {
				requests++
			}
		}
		for line := range strings.Lines(rwc.out.String()) {
			if line == "\n" {
				continue
			}
			var m message
			if err := json.Unmarshal([]byte(line), &m); err != nil || m.OK == nil || *m.OK == (m.Error != "") {
				t.Fatalf("reply %.200q: %v", line, err)
			}
			requests--
		}
		if requests != 0 {
			t.Fatalf("%d requests without reply", requests)
		}
	})
}

// buffer is a connection whose peer has said all it will say.
type buffer struct {
	in  io.Reader
	out strings.Builder
}

func (b *buffer) Read(p []byte) (int, error)  { return b.in.Read(p) }
func (b *buffer) Write(p []byte) (int, error) { return b.out.Write(p) }
func (b *buffer) Close() error                { return nil }

func FuzzClient(f *testing.F) {
	f.Add([]byte(`{"id":7,"ok":true,"data":[1]}` + "\n"))
	f.Add([]byte("{]\n\n\x00\n" + `{"event":"x","data":{}}` + "\n" + `{"id":1,"ok":null}` + "\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		c := NewClient(&buffer{in: strings.NewReader(string(in))}, func(Event) {})
		if err := c.Call(t.Context(), "status", nil, nil); !errors.Is(err, ErrClosed) {
			t.Fatalf("an answer was made of %q: %v", in, err)
		}
		c.Close()
	})
}
