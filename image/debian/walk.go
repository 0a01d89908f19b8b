// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package debian

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

// Walk calls visit for every entry of the data of the .deb file, in its order, with
// a reader of the entry's content, and returns name and version that the package
// has by its own account. An error of visit ends the walk and is returned; that of
// a file that is no sound package matches [ErrBroken].
func Walk(ctx context.Context, file string, visit func(h *tar.Header, content io.Reader) error) (p Package, err error) {
	defer func() {
		// The decoders of a .deb were not written for hostile bytes.
		if r := recover(); r != nil {
			p, err = Package{}, fmt.Errorf("%w package: %v", ErrBroken, r)
		}
	}()
	if err := checkArchive(file); err != nil {
		return Package{}, fmt.Errorf("%w package: %w", ErrBroken, err)
	}
	pkg, closePkg, err := deb.LoadFile(file)
	if err != nil {
		return Package{}, fmt.Errorf("%w package: %w", ErrBroken, err)
	}
	defer closePkg()

	member := pkg.ArContent["data."+pkg.DataExt]
	data, err := deb.DecompressorFor(path.Ext(member.Name))(io.NewSectionReader(member.Data, 0, member.Size))
	if err != nil {
		return Package{}, fmt.Errorf("%w package: %s: %w", ErrBroken, member.Name, err)
	}
	defer data.Close()
	ahead := readAhead(data)
	defer ahead.Close()
	if err := walk(ctx, ahead, visit); err != nil {
		return Package{}, fmt.Errorf("%s: %w", member.Name, err)
	}
	return Package{Name: pkg.Control.Package, Version: pkg.Control.Version.String()}, nil
}

func walk(ctx context.Context, data io.Reader, visit func(*tar.Header, io.Reader) error) error {
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
			return fmt.Errorf("%w package: %w", ErrBroken, err)
		}
		if err := visit(h, tr); err != nil {
			return err
		}
	}
	// What follows the end of the archive carries the compressor's check sum.
	if _, err := io.Copy(io.Discard, data); err != nil {
		return fmt.Errorf("%w package: %w", ErrBroken, err)
	}
	return nil
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
