// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package ctl

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// MaxLine bounds a line of the protocol in bytes, its newline included. A
// reply that would be longer is answered with CodeTooLong.
const MaxLine = 1 << 20

// ErrTooLong is matched by the error of a line longer than [MaxLine].
var ErrTooLong = errors.New("line too long")

// Codes that tell a program why a request was refused.
const (
	CodeBadRequest     = "bad-request"     // the request could not be read
	CodeUnknownCommand = "unknown-command" // nothing answers to this name
	CodeTooLong        = "too-long"        // request or reply over MaxLine
	CodeFailed         = "failed"          // the command ran and failed
)

type request struct {
	ID   uint64          `json:"id"`
	Cmd  string          `json:"cmd"`
	Args json.RawMessage `json:"args,omitempty"`
}

// message is what a server sends: a reply, or an event when Event is set.
type message struct {
	ID    uint64          `json:"id,omitempty"`
	OK    *bool           `json:"ok,omitempty"`
	Code  string          `json:"code,omitempty"`
	Error string          `json:"error,omitempty"`
	Event string          `json:"event,omitempty"`
	Data  json.RawMessage `json:"data,omitempty"`
}

// encodeLine returns v as one line, or an error matching ErrTooLong.
func encodeLine(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(b) >= MaxLine {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLong, len(b)+1, MaxLine)
	}
	return append(b, '\n'), nil
}

// decodeStrict parses exactly one JSON value into v and refuses unknown keys.
func decodeStrict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more than one JSON value")
	}
	return nil
}

// A lineReader splits a stream into lines and never keeps more than one line
// of at most MaxLine bytes.
type lineReader struct {
	r   *bufio.Reader
	buf []byte
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 16<<10)}
}

// next returns the next line that is not empty, without its newline; it is
// valid until the following call. A line over MaxLine is skipped up to its
// newline and reported as ErrTooLong, after which reading may go on. At the end
// of the stream an unfinished line is dropped: its sender did not mean it yet.
func (l *lineReader) next() ([]byte, error) {
	for {
		l.buf = l.buf[:0]
		long := false
		for {
			part, err := l.r.ReadSlice('\n')
			if long = long || len(l.buf)+len(part) > MaxLine; !long {
				l.buf = append(l.buf, part...)
			}
			if err == nil {
				break
			}
			if !errors.Is(err, bufio.ErrBufferFull) {
				return nil, err
			}
		}
		if long {
			return nil, fmt.Errorf("%w: at most %d bytes", ErrTooLong, MaxLine)
		}
		if line := bytes.TrimSpace(l.buf); len(line) > 0 {
			return line, nil
		}
	}
}
