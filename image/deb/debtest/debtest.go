// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package debtest makes Debian packages for tests.
package debtest

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"fmt"
	"strings"
	"testing"
)

// File is a member of a package's data. The zero values of Mode and Type mean
// 0644 and a regular file.
type File struct {
	Name    string
	Content string
	Mode    int64
	Type    byte   // tar's
	Link    string // where a link leads to
}

// Control returns the control file of version 1.2-3 of a package, with further
// fields.
func Control(name string, fields ...string) string {
	return fmt.Sprintf("Package: %s\nVersion: 1.2-3\nArchitecture: amd64\nMaintainer: Nobody <nobody@example.org>\n%sDescription: a test\n",
		name, strings.Join(append(fields, ""), "\n"))
}

// Deb returns a Debian package (deb(5)).
func Deb(tb testing.TB, control string, files []File) []byte {
	tb.Helper()
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for _, member := range []struct {
		name    string
		content []byte
	}{
		{"debian-binary", []byte("2.0\n")},
		{"control.tar.gz", tarball(tb, []File{{Name: "./control", Content: control}})},
		{"data.tar.gz", tarball(tb, files)},
	} {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", member.name, 0, 0, 0, "100644", len(member.content))
		b.Write(member.content)
		if len(member.content)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

func tarball(tb testing.TB, files []File) []byte {
	tb.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	t := tar.NewWriter(z)
	for _, f := range files {
		h := &tar.Header{
			Name: f.Name, Mode: cmp.Or(f.Mode, 0o644), Size: int64(len(f.Content)),
			Typeflag: cmp.Or(f.Type, tar.TypeReg), Linkname: f.Link,
		}
		if err := t.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
		if _, err := t.Write([]byte(f.Content)); err != nil {
			tb.Fatal(err)
		}
	}
	if err := t.Close(); err != nil {
		tb.Fatal(err)
	}
	if err := z.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}
