// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package oplog

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

// The text form of a log is made to be read by people, by diff(1), and by a
// successor of the process that wrote it. It is ASCII, has one line per
// operation, and one state has one text: operations are sorted, and a value is
// quoted if and only if it must be.
//
//	+---------------------------------------------+
//	| umbra-log 1 LF                              |  format and version
//	+---------------------------------------------+
//	| net.mtu=9000 LF                             |  one line per operation,
//	| net.ring.rx=512 ! "the device has none" LF  |  sorted by key and member;
//	| net.vlan+=100 LF                            |  after " ! " why it is deferred
//	+---------------------------------------------+
//	| crc32c 0a1b2c3d LF                          |  of all bytes before this line
//	+---------------------------------------------+
//
//	part      form
//	key       see Op; ends in "+" for a member of a set
//	value     bare when all bytes are in 0x21..0x7e without " and \, else a
//	          quoted string with the escapes of Go, ASCII only
//	reason    always a quoted string
//	crc32c    Castagnoli polynomial, eight lower-case hexadecimal digits
const (
	header    = "umbra-log 1\n"
	crcPrefix = "crc32c "
	crcLine   = len(crcPrefix) + 8 + 1
	markSep   = " ! "
)

// ErrCorrupt is matched by the error of a text that no log was encoded to.
var ErrCorrupt = errors.New("corrupt log")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// MarshalText implements encoding.TextMarshaler. It never fails.
func (l *Log) MarshalText() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(header)
	for _, e := range l.Entries() {
		b.WriteString(e.Op.String())
		if e.Deferred != "" {
			b.WriteString(markSep)
			b.WriteString(strconv.QuoteToASCII(e.Deferred))
		}
		b.WriteByte('\n')
	}
	b.WriteString(sum(b.Bytes()))
	return b.Bytes(), nil
}

// UnmarshalText implements encoding.TextUnmarshaler. On an error, which matches
// ErrCorrupt, l is unchanged.
func (l *Log) UnmarshalText(text []byte) error {
	if !bytes.HasPrefix(text, []byte(header)) {
		return fmt.Errorf("%w: it does not start with %q", ErrCorrupt, header)
	}
	if len(text) < len(header)+crcLine {
		return fmt.Errorf("%w: cut short after %d bytes", ErrCorrupt, len(text))
	}
	body, tail := text[:len(text)-crcLine], text[len(text)-crcLine:]
	if want := sum(body); string(tail) != want {
		return fmt.Errorf("%w: it ends in %q, want %q", ErrCorrupt, tail, want)
	}
	parsed := new(Log)
	line := 1
	for s := range strings.Lines(string(body[len(header):])) {
		line++
		if err := parsed.applyLine(strings.TrimSuffix(s, "\n")); err != nil {
			return fmt.Errorf("%w: line %d: %w", ErrCorrupt, line, err)
		}
	}
	// What is left are texts with a right checksum that we do not write:
	// unsorted, with removals, or said twice.
	if canon, _ := parsed.MarshalText(); !bytes.Equal(canon, text) {
		return fmt.Errorf("%w: not in canonical form", ErrCorrupt)
	}
	*l = *parsed
	return nil
}

// sum returns the last line of a text that starts with body.
func sum(body []byte) string {
	return fmt.Sprintf("%s%08x\n", crcPrefix, crc32.Checksum(body, castagnoli))
}

func (l *Log) applyLine(s string) error {
	op, rest, err := parsePrefix(s)
	if err != nil {
		return err
	}
	if _, err := l.Apply(op); err != nil {
		return err
	}
	if rest == "" {
		return nil
	}
	quoted, ok := strings.CutPrefix(rest, markSep)
	if !ok {
		return fmt.Errorf("%w: %q after the value", ErrBadOp, rest)
	}
	reason, err := strconv.Unquote(quoted)
	if err != nil {
		return fmt.Errorf("%w: reason %q", ErrBadOp, quoted)
	}
	l.Defer(op, reason)
	return nil
}
