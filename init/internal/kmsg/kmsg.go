// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package kmsg writes log records where the kernel keeps its own: to
// /dev/kmsg, from where dmesg, a crash dump and the hypervisor's console
// buffer show them in one order with the kernel's.
//
// It knows the kernel's record format and limits and how a slog.Record
// becomes one line. It must never know who logs or why, or what a console is.
package kmsg

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"unicode/utf8"
)

// Path is the device the kernel takes records from.
const Path = "/dev/kmsg"

// MaxRecord is the length in bytes of the longest record a Writer hands to
// the kernel, priority and tag included. devkmsg_write in
// kernel/printk/printk.c refuses records above LOG_LINE_MAX, which is 1024
// less a prefix of 32 or 48 bytes; 900 leaves room in every configuration.
const MaxRecord = 900

// facility is LOG_DAEMON of RFC 5424. With facility 0 the kernel would take
// the record for one of its own (it substitutes LOG_USER).
const facility = 3 << 3

// A Writer writes records with one tag, the way programs tag syslog lines. It
// is safe for concurrent use.
type Writer struct {
	mu  sync.Mutex
	w   io.Writer
	tag string
}

// NewWriter returns a Writer that puts records into w, one Write call each.
func NewWriter(w io.Writer, tag string) *Writer { return &Writer{w: w, tag: tag} }

// Open returns a Writer on [Path].
func Open(tag string) (*Writer, error) {
	f, err := os.OpenFile(Path, os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("kmsg: %w", err)
	}
	return NewWriter(f, tag), nil
}

// Print writes text at the given level, one record for each line of text and
// for each piece of a line that is too long for one. Records the kernel does
// not take are lost: a log has nowhere to report that it cannot log.
func (k *Writer) Print(level slog.Level, text string) {
	head := fmt.Sprintf("<%d>%s: ", facility|priority(level), k.tag)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, piece := range Split(text, MaxRecord-len(head)-1) {
		_, _ = io.WriteString(k.w, head+piece+"\n")
	}
}

// priority maps a level to a syslog severity. Errors are written as warnings
// (4): a console at the usual quiet level shows severities below 4, and what
// umbra reports is on the console already, in words for people.
func priority(level slog.Level) int {
	switch {
	case level >= slog.LevelWarn:
		return 4
	case level >= slog.LevelInfo:
		return 6
	}
	return 7
}

// Split cuts text at its newlines, and the lines into pieces of at most limit
// bytes, never within a UTF-8 sequence. Empty lines are left out.
func Split(text string, limit int) []string {
	limit = max(limit, utf8.UTFMax)
	var pieces []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		for len(line) > limit {
			cut := limit
			for cut > limit-utf8.UTFMax+1 && !utf8.RuneStart(line[cut]) {
				cut--
			}
			if !utf8.RuneStart(line[cut]) {
				cut = limit // not UTF-8 at all
			}
			pieces = append(pieces, line[:cut])
			line = line[cut:]
		}
		if line != "" {
			pieces = append(pieces, line)
		}
	}
	return pieces
}
