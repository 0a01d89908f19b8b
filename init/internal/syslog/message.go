// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package syslog sends the lines of programs to a syslog server: RFC 5424, over UDP
// (RFC 5426) or TCP (RFC 6587, with octet counting).
//
// The rings that lines come from are its queue. It reads them as fast as it can send, and
// counts those that were forgotten before. It must never know who keeps the rings, nor
// what a line means beyond the level in front of those of umbra's own programs.
package syslog

import (
	"fmt"
	"strings"

	"github.com/crewjam/rfc5424"
	"github.com/umbra-vm/umbra/init/notify"
)

// self is the name under which a Forwarder speaks of itself.
const self = "logd"

// maxBytes of a message: what every receiver takes (RFC 5424, section 6.1). PID 1's lines
// are shorter, unless most of their bytes were no UTF-8.
const maxBytes = 2048

// message returns a line as a message of a host.
func message(host string, l notify.Line) ([]byte, error) {
	m := rfc5424.Message{
		Priority:  rfc5424.Daemon | severity(l.Text),
		Timestamp: l.At.UTC(),
		Hostname:  host,
		AppName:   l.From,
		Message:   []byte(l.Text),
	}
	text, err := m.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("syslog: line %d of %s: %w", l.N, l.From, err)
	}
	return text[:min(len(text), maxBytes)], nil
}

// severity is what the line says of itself, in the way of package kmsg.
func severity(text string) rfc5424.Priority {
	switch {
	case strings.HasPrefix(text, "error: "):
		return rfc5424.Error
	case strings.HasPrefix(text, "warning: "):
		return rfc5424.Warning
	}
	return rfc5424.Info
}

// framed returns a message as it is sent over a network.
func framed(network string, message []byte) []byte {
	if network == "tcp" {
		return append(fmt.Appendf(nil, "%d ", len(message)), message...)
	}
	return message
}
