// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package console

import (
	"bufio"
	"io"
	"strings"
)

// maxLine bounds a line in bytes; what is longer is printed in pieces.
const maxLine = 1024

// Lines reads r to its end and calls emit for every line, without its end of
// line; long lines come in pieces of at most 1024 bytes. Control characters
// are replaced, so that a program's output cannot move the cursor or switch
// the terminal under the reader's eyes.
func Lines(r io.Reader, emit func(line string)) {
	br := bufio.NewReaderSize(r, maxLine)
	for {
		piece, err := br.ReadSlice('\n')
		line := strings.TrimRight(string(piece), "\r\n")
		if line != "" || len(piece) > 0 && err == nil {
			emit(printable(line))
		}
		if err != nil && err != bufio.ErrBufferFull {
			return
		}
	}
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f {
			return '·'
		}
		return r
	}, s)
}
