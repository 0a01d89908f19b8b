// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package stream

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// pipe is both ends of a relay: what is taken from the source, counted, and
// what is passed on.
type pipe struct {
	src *bufio.Reader
	dst *bufio.Writer

	read    int64 // bytes taken from src
	written int64 // bytes given to dst
	section string

	scratch [pageSize]byte
}

// bufferSize is for each direction, in bytes; QEMU writes some 32 kB at a time.
const bufferSize = 64 << 10

func newPipe(dst io.Writer, src io.Reader) *pipe {
	return &pipe{
		src: bufio.NewReaderSize(src, bufferSize),
		dst: bufio.NewWriterSize(dst, bufferSize),
	}
}

// fail locates err in the stream.
func (p *pipe) fail(err error) error {
	return &Error{Offset: p.read, Section: p.section, Err: err}
}

// take reads n ≤ pageSize bytes. They are valid until the next take.
func (p *pipe) take(n int) ([]byte, error) {
	b := p.scratch[:n]
	got, err := io.ReadFull(p.src, b)
	p.read += int64(got)
	if err != nil {
		return nil, p.fail(readError(err))
	}
	return b, nil
}

func readError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrTruncated
	}
	return fmt.Errorf("%w: %w", ErrTruncated, err)
}

func (p *pipe) u8() (byte, error) {
	b, err := p.take(1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

func (p *pipe) u32() (uint32, error) {
	b, err := p.take(4)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(b), nil
}

func (p *pipe) u64() (uint64, error) {
	b, err := p.take(8)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(b), nil
}

// name reads a length byte and that much text.
func (p *pipe) name() (string, error) {
	n, err := p.u8()
	if err != nil {
		return "", err
	}
	b, err := p.take(int(n))
	return string(b), err
}

func (p *pipe) peek() (byte, error) {
	b, err := p.src.Peek(1)
	if err != nil {
		return 0, p.fail(readError(err))
	}
	return b[0], nil
}

func (p *pipe) put(b []byte) error {
	n, err := p.dst.Write(b)
	p.written += int64(n)
	return p.forwardError(err)
}

func (p *pipe) put8(v byte) error { return p.put(append(p.dst.AvailableBuffer(), v)) }
func (p *pipe) put32(v uint32) error {
	return p.put(binary.BigEndian.AppendUint32(p.dst.AvailableBuffer(), v))
}
func (p *pipe) put64(v uint64) error {
	return p.put(binary.BigEndian.AppendUint64(p.dst.AvailableBuffer(), v))
}

func (p *pipe) putName(s string) error {
	return p.put(append(append(p.dst.AvailableBuffer(), byte(len(s))), s...))
}

func (p *pipe) flush() error { return p.forwardError(p.dst.Flush()) }

func (p *pipe) forwardError(err error) error {
	if err == nil {
		return nil
	}
	return p.fail(fmt.Errorf("%w: %w", ErrForward, err))
}
