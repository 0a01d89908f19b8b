// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package notify

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestParseRequest(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       Request
		ok         bool
	}{
		{"a role is up", `{"op":"ready","name":"net0"}`, Request{Op: Ready, Name: "net0"}, true},
		{"a key of a newer client is let pass", `{"op":"ready","name":"net0","since":7}`, Request{Op: Ready, Name: "net0"}, true},
		{"lines after a number are waited for", `{"op":"logs","name":"app","after":7,"wait":true}`,
			Request{Op: Logs, Name: "app", After: 7, Wait: true}, true},
		{"status needs no name", `{"op":"status"}`, Request{Op: Report}, true},
		{"so does what says that a role is recorded", `{"op":"recorded"}`, Request{}, false},
		{"ready needs one", `{"op":"ready"}`, Request{}, false},
		{"no operation", `{}`, Request{}, false},
		{"an unknown operation", `{"op":"halt now"}`, Request{}, false},
		{"no object", `"ready"`, Request{}, false},
		{"nothing", ``, Request{}, false},
		{"too much", `{"op":"logs","name":"` + strings.Repeat("x", MaxRequest) + `"}`, Request{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseRequest([]byte(tt.text))
			if (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrRequest) {
				t.Errorf("error %v", err)
			}
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func FuzzParseRequest(f *testing.F) {
	for _, s := range []string{`{"op":"fdstore","name":"net0-tap"}`, `{"op":"poweroff"}`, `{"op":7}`, `{"op":"ready","name":"\u0000"}`, "\xff{"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRequest(b)
		if err != nil {
			if !errors.Is(err, ErrRequest) || r != (Request{}) {
				t.Fatalf("%+v, %v", r, err)
			}
			return
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if r2, err := ParseRequest(again); len(again) <= MaxRequest && (err != nil || r2 != r) {
			t.Fatalf("%+v became %+v, %v", r, r2, err)
		}
	})
}

func TestNobodyListens(t *testing.T) {
	err := NewClient(filepath.Join(t.TempDir(), "none")).SetRole(context.Background(), "net0", true)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "ready net0") {
		t.Errorf("error %v, want ErrNotExist naming the request", err)
	}
}

func TestInherited(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	// Two adjacent descriptors, far from those of the test.
	const first = 200
	for i, f := range []*os.File{r, w} {
		if err := unix.Dup3(int(f.Fd()), first+i, 0); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	files := inherited("net0-tap:net1-tap:not-there", first)
	var names []string
	for name, f := range files {
		names = append(names, name)
		flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s: flags %#x, %v: a child would inherit it", name, flags, err)
		}
	}
	if len(names) != 2 || files["net0-tap"] == nil || files["net1-tap"] == nil {
		t.Fatalf("inherited %q, want the two that are open", names)
	}
	if _, err := io.WriteString(files["net1-tap"], "x"); err != nil {
		t.Error(err)
	}
	files["net1-tap"].Close()
	if got, err := io.ReadAll(files["net0-tap"]); err != nil || string(got) != "x" {
		t.Errorf("read %q, %v", got, err)
	}
	if diff := cmp.Diff(0, len(inherited("", first))); diff != "" {
		t.Error("something was inherited from nothing")
	}
}
