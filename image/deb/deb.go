// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package deb reads Debian packages (deb(5)), also ones that are not as they
// should be. It must never know what a package's files are for.
package deb

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"pault.ag/go/debian/deb"
)

// Control is what a package says of itself.
type Control struct {
	Package string
	Version string
}

// Read calls file for every member of the package's data, in their order, with
// the member's content, and reads all of it to its check sum. An error of file's
// ends it.
func Read(ctx context.Context, name string, file func(h *tar.Header, content io.Reader) error) (c Control, err error) {
	defer func() {
		// The decoders of a .deb were not written for hostile bytes.
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	if err := checkArchive(name); err != nil {
		return c, err
	}
	pkg, closePkg, err := deb.LoadFile(name)
	if err != nil {
		return c, err
	}
	defer closePkg()
	c = Control{Package: pkg.Control.Package, Version: pkg.Control.Version.String()}

	member := pkg.ArContent["data."+pkg.DataExt]
	data, err := deb.DecompressorFor(path.Ext(member.Name))(io.NewSectionReader(member.Data, 0, member.Size))
	if err != nil {
		return c, fmt.Errorf("%s: %w", member.Name, err)
	}
	defer data.Close()
	ahead := readAhead(data)
	defer ahead.Close()
	if err := readTar(ctx, ahead, file); err != nil {
		return c, fmt.Errorf("%s: %w", member.Name, err)
	}
	return c, nil
}

func readTar(ctx context.Context, data io.Reader, file func(h *tar.Header, content io.Reader) error) error {
	tr := tar.NewReader(data)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := file(h, tr); err != nil {
			return err
		}
	}
	// What follows the end of the archive carries the compressor's check sum.
	_, err := io.Copy(io.Discard, data)
	return err
}

// checkArchive walks over the members of an ar(5) archive. The library that reads
// it afterwards takes sizes on trust, and goes in circles on a negative one.
func checkArchive(name string) error {
	const magic, headerSize = "!<arch>\n", 60
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	header := make([]byte, headerSize)
	if _, err := f.ReadAt(header[:len(magic)], 0); err != nil || string(header[:len(magic)]) != magic {
		return errors.New("not a Debian package")
	}
	for at := int64(len(magic)); at < info.Size(); {
		if _, err := f.ReadAt(header, at); err != nil {
			return fmt.Errorf("cut off at byte %d", at)
		}
		field := strings.TrimSpace(string(header[48:58]))
		size, err := strconv.ParseUint(field, 10, 63)
		if err != nil {
			return fmt.Errorf("byte %d: %q is no size", at, field)
		}
		at += headerSize
		if int64(size) > info.Size()-at {
			return fmt.Errorf("cut off: %s ends %d bytes after the file", strings.TrimSpace(string(header[:16])), int64(size)-(info.Size()-at))
		}
		at += int64(size + size%2)
	}
	return nil
}

// readAhead reads r on a goroutine of its own, so that decompressing and writing
// to disk overlap. Closing it ends the goroutine.
func readAhead(r io.Reader) io.ReadCloser {
	pr, pw := io.Pipe()
	go func() {
		defer func() {
			if v := recover(); v != nil {
				pw.CloseWithError(fmt.Errorf("decompress: %v", v))
			}
		}()
		w := bufio.NewWriterSize(pw, 1<<20)
		_, err := io.Copy(w, r)
		pw.CloseWithError(errors.Join(err, w.Flush()))
	}()
	return pr
}
