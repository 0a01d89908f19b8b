// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package kmsg

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"time"
)

// A Sink takes one formatted line.
type Sink func(level slog.Level, line string)

// A Handler formats slog records as short lines for people and gives each to
// its sinks:
//
//	net0: 10.0.2.15/24 by DHCP server=10.0.2.2 lease=24h0m0s
//	warning: witness: ended, again in 400ms exit="signal: killed": no such device
//
// What a line is about comes first: the value of the attribute "role",
// "service" or "device". The attribute "err" comes last, after a colon. The
// time is left out, since both the kernel and the console stamp lines.
type Handler struct {
	level slog.Leveler
	sinks []Sink
	group string
	attrs []slog.Attr
}

var _ slog.Handler = (*Handler)(nil)

// NewHandler returns a Handler for records of the level and above.
func NewHandler(level slog.Leveler, sinks ...Sink) *Handler {
	return &Handler{level: level, sinks: sinks}
}

// Enabled implements slog.Handler.
func (h *Handler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.level.Level()
}

// WithAttrs implements slog.Handler.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.attrs = append([]slog.Attr(nil), h.attrs...)
	for _, a := range attrs {
		c.attrs = append(c.attrs, slog.Attr{Key: h.group + a.Key, Value: a.Value})
	}
	return &c
}

// WithGroup implements slog.Handler: the names of attributes that follow get
// "name." in front.
func (h *Handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	c := *h
	c.group += name + "."
	return &c
}

// Handle implements slog.Handler.
func (h *Handler) Handle(_ context.Context, r slog.Record) error {
	var l line
	for _, a := range h.attrs {
		l.add("", a)
	}
	r.Attrs(func(a slog.Attr) bool {
		l.add(h.group, a)
		return true
	})
	text := l.text(r.Level, r.Message)
	for _, sink := range h.sinks {
		sink(r.Level, text)
	}
	return nil
}

// line collects the parts of one line.
type line struct {
	subject, err string
	rest         strings.Builder
}

func (l *line) add(group string, a slog.Attr) {
	v := a.Value.Resolve()
	key := group + a.Key
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			group = key + "."
		}
		for _, b := range v.Group() {
			l.add(group, b)
		}
		return
	}
	switch key {
	case "":
	case "role", "service", "device":
		if l.subject != "" {
			l.subject += " "
		}
		l.subject += v.String()
	case "err", "error":
		l.err = v.String()
	default:
		l.rest.WriteString(" " + key + "=" + value(v))
	}
}

func (l *line) text(level slog.Level, msg string) string {
	var b strings.Builder
	switch {
	case level >= slog.LevelError:
		b.WriteString("error: ")
	case level >= slog.LevelWarn:
		b.WriteString("warning: ")
	}
	if l.subject != "" {
		b.WriteString(l.subject + ": ")
	}
	b.WriteString(msg)
	b.WriteString(l.rest.String())
	if l.err != "" {
		b.WriteString(": " + l.err)
	}
	return b.String()
}

// value renders v, quoted where a reader could not tell where it ends.
func value(v slog.Value) string {
	var s string
	if v.Kind() == slog.KindDuration {
		s = Duration(v.Duration())
	} else {
		s = v.String()
	}
	if s == "" || strings.ContainsAny(s, " =\"\n\r\t") {
		return strconv.Quote(s)
	}
	return s
}

// Duration renders d without the digits that nobody reads: three are left
// below a second, and none of a second's parts above a minute.
func Duration(d time.Duration) string {
	switch abs := d.Abs(); {
	case abs >= time.Minute:
		return d.Round(time.Second).String()
	case abs >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case abs >= 10*time.Millisecond:
		return d.Round(time.Millisecond).String()
	case abs >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}
