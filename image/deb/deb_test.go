// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package deb_test

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/umbra-vm/umbra/image/deb"
	"github.com/umbra-vm/umbra/image/deb/debtest"
)

var files = []debtest.File{
	{Name: "./usr/", Type: tar.TypeDir, Mode: 0o755},
	{Name: "./usr/app", Content: "program", Mode: 0o4755},
	{Name: "./usr/link", Type: tar.TypeSymlink, Link: "app"},
	{Name: "./usr/same", Type: tar.TypeLink, Link: "./usr/app"},
}

func write(t *testing.T, content []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "x.deb")
	if err := os.WriteFile(name, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestRead(t *testing.T) {
	name := write(t, debtest.Deb(t, debtest.Control("app"), files))
	var got []string
	control, err := deb.Read(context.Background(), name, func(h *tar.Header, content io.Reader) error {
		text, err := io.ReadAll(content)
		got = append(got, fmt.Sprintf("%s %c %o %s%s", h.Name, h.Typeflag, h.Mode, h.Linkname, text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"./usr/ 5 755 ", "./usr/app 0 4755 program", "./usr/link 2 644 app", "./usr/same 1 644 ./usr/app"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
	if control != (deb.Control{Package: "app", Version: "1.2-3"}) {
		t.Errorf("control is %+v", control)
	}
}

func TestReadEndsWithAnErrorOfItsCaller(t *testing.T) {
	name := write(t, debtest.Deb(t, debtest.Control("app"), files))
	enough, calls := errors.New("enough"), 0
	_, err := deb.Read(context.Background(), name, func(*tar.Header, io.Reader) error {
		calls++
		return enough
	})
	if !errors.Is(err, enough) || calls != 1 {
		t.Errorf("error %v after %d calls", err, calls)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(debtest.Deb(f, debtest.Control("app"), files))
	f.Add([]byte("!<arch>\ndebian-binary   0           0     0     100644  4         `\n2.0\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		// Whatever the bytes are, it comes to an end and does not panic, and of what
		// it accepts it has read all.
		var read, want int64
		_, err := deb.Read(context.Background(), write(t, content), func(h *tar.Header, content io.Reader) error {
			n, err := io.Copy(io.Discard, content)
			read, want = read+n, want+h.Size
			return err
		})
		if err == nil && read != want {
			t.Fatalf("read %d bytes of %d", read, want)
		}
	})
}
