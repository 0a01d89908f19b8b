// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package control

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/umbra-vm/umbra/init/notify"
	"golang.org/x/sys/unix"
)

// recorder is a Handler that keeps what it is given.
type recorder struct {
	mu    sync.Mutex
	reqs  []notify.Request
	files map[string]*os.File
}

func (r *recorder) Handle(req notify.Request, fd int) notify.Reply {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reqs = append(r.reqs, req)
	switch req.Op {
	case notify.FDStore:
		r.files[req.Name] = os.NewFile(uintptr(fd), req.Name)
	case notify.FDRemove:
		return notify.Reply{Error: "no descriptor of that name"}
	case notify.Report:
		return notify.Reply{OK: true, Status: &notify.Status{Uptime: time.Second, Roles: map[string]bool{"net0": true}}}
	case notify.Logs:
		if req.Name == "huge" {
			return notify.Reply{OK: true, Lines: []notify.Line{{Text: strings.Repeat("x", notify.MaxReply)}}}
		}
		return notify.Reply{OK: true, Lines: []notify.Line{{N: req.After + 1}, {N: req.After + 2}}, Last: 4 + req.After}
	}
	return notify.Reply{OK: true}
}

func serve(t *testing.T) (*recorder, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "init.sock")
	rec := &recorder{files: make(map[string]*os.File)}
	s, err := Listen(path, rec, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return rec, path
}

func TestConversation(t *testing.T) {
	rec, path := serve(t)
	c, ctx := notify.NewClient(path), context.Background()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Put(ctx, "net0-tap", w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	rec.mu.Lock()
	kept := rec.files["net0-tap"]
	rec.mu.Unlock()
	if _, err := io.WriteString(kept, "through the kept end"); err != nil {
		t.Fatal(err)
	}
	kept.Close()
	if got, err := io.ReadAll(r); err != nil || string(got) != "through the kept end" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := c.SetRole(ctx, "net0", true); err != nil {
		t.Error(err)
	}
	if err := c.SetRole(ctx, "net0", false); err != nil {
		t.Error(err)
	}
	if err := c.Remove(ctx, "x"); !errors.Is(err, notify.ErrRefused) || !strings.Contains(err.Error(), "no descriptor of that name") {
		t.Errorf("a refusal is told as %v", err)
	}
	if err := c.Power(ctx, notify.Reboot); err != nil {
		t.Error(err)
	}
	if st, err := c.Status(ctx); err != nil || !st.Roles["net0"] || st.Uptime != time.Second {
		t.Errorf("status %+v, %v", st, err)
	}
	// Two lines a reply, and more of them all the time: those that were there at first.
	if lines, err := c.Logs(ctx, "app"); err != nil || len(lines) != 4 || lines[3].N != 4 {
		t.Errorf("lines %v, %v", lines, err)
	}
	if lines, err := c.LogsAfter(ctx, "", 7, true); err != nil || len(lines) != 2 || lines[0].N != 8 {
		t.Errorf("lines that follow %v, %v", lines, err)
	}
	if _, err := c.Logs(ctx, "huge"); !errors.Is(err, notify.ErrRefused) {
		t.Errorf("a reply that is too long is told as %v", err)
	}
	want := []notify.Request{
		{Op: notify.FDStore, Name: "net0-tap"}, {Op: notify.Ready, Name: "net0"}, {Op: notify.Unready, Name: "net0"},
		{Op: notify.FDRemove, Name: "x"}, {Op: notify.Reboot}, {Op: notify.Report},
		{Op: notify.Logs, Name: "app"}, {Op: notify.Logs, Name: "app", After: 2},
		{Op: notify.Logs, After: 7, Wait: true}, {Op: notify.Logs, Name: "huge"},
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if diff := cmp.Diff(want, rec.reqs); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestDatagramsThatAreRefused(t *testing.T) {
	_, path := serve(t)
	for _, tt := range []struct {
		name, text string
		fds        int
		want       string
	}{
		{"no JSON", "ready net0", 0, "bad request"},
		{"an unknown op", `{"op":"panic"}`, 0, `unknown op "panic"`},
		{"a name that is missing", `{"op":"ready"}`, 0, "needs a name"},
		{"a datagram above the limit", `{"op":"ready","name":"` + strings.Repeat("x", notify.MaxRequest) + `"}`, 0, "too long"},
		{"fdstore without a descriptor", `{"op":"fdstore","name":"a"}`, 0, "got 0"},
		{"fdstore with two", `{"op":"fdstore","name":"a"}`, 2, "got 2"},
		{"a descriptor nobody asked for", `{"op":"ready","name":"net0"}`, 1, "takes no descriptor"},
		{"more descriptors than are read", `{"op":"fdstore","name":"a"}`, 40, "too many"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			var oob []byte
			if tt.fds > 0 {
				fds := make([]int, tt.fds)
				for i := range fds {
					fds[i] = int(w.Fd())
				}
				oob = unix.UnixRights(fds...)
			}
			if _, _, err := conn.WriteMsgUnix([]byte(tt.text), oob, nil); err != nil {
				t.Fatal(err)
			}
			w.Close()
			buf := make([]byte, notify.MaxReply)
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(buf[:n]); !strings.Contains(got, `"ok":false`) || !strings.Contains(got, strings.ReplaceAll(tt.want, `"`, `\"`)) {
				t.Errorf("reply %s, want %q", got, tt.want)
			}
			// The pipe ends only when no descriptor of it was kept.
			if n, err := r.Read(buf); n != 0 || !errors.Is(err, io.EOF) {
				t.Errorf("read %d, %v: a descriptor was kept", n, err)
			}
		})
	}
}

func TestPermit(t *testing.T) {
	for _, tt := range []struct {
		name string
		peer uint32
		self int
		want error
	}{
		{"root may speak with PID 1", 0, 0, nil},
		{"a user may not", 1000, 0, ErrDenied},
		{"the overflow user may not", 65534, 0, ErrDenied},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := permit(&unix.Ucred{Pid: 7, Uid: tt.peer}, tt.self); !errors.Is(err, tt.want) {
				t.Errorf("permit: %v, want %v", err, tt.want)
			}
		})
	}
}

func TestTheSocketIsForItsOwnerAlone(t *testing.T) {
	_, path := serve(t)
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", fi.Mode())
	}
}

func TestListenReplacesASocketLeftBehind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "init.sock")
	for range 2 {
		s, err := Listen(path, &recorder{}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		s.listener.SetUnlinkOnClose(false)
		s.Close()
	}
}
