// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package wire is the form of xenstore's messages.
package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Message types (enum xsd_sockmsg_type of xen/include/public/io/xs_wire.h).
const (
	Directory  = 1
	Read       = 2
	Watch      = 4
	Write      = 11
	Remove     = 13
	WatchEvent = 15
	Error      = 16
)

const (
	headerLen  = 16
	MaxPayload = 4096 // bytes, XENSTORE_PAYLOAD_MAX
)

// ErrMalformed says that bytes are not a message of xenstore's protocol.
var ErrMalformed = errors.New("malformed xenstore message")

// A Message is one message: struct xsd_sockmsg and the payload that follows it.
// Transactions are not used; their field is 0.
type Message struct {
	Kind    uint32
	Request uint32 // a reply bears the number of its request
	Payload []byte
}

// Encode returns the bytes of a message.
func (m Message) Encode() ([]byte, error) {
	if len(m.Payload) > MaxPayload {
		return nil, fmt.Errorf("%w: payload of %d bytes", ErrMalformed, len(m.Payload))
	}
	b := make([]byte, headerLen, headerLen+len(m.Payload))
	binary.NativeEndian.PutUint32(b[0:], m.Kind)
	binary.NativeEndian.PutUint32(b[4:], m.Request)
	binary.NativeEndian.PutUint32(b[12:], uint32(len(m.Payload)))
	return append(b, m.Payload...), nil
}

// Decode reads one message.
func Decode(r io.Reader) (Message, error) {
	var head [headerLen]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Message{}, err
	}
	m := Message{
		Kind:    binary.NativeEndian.Uint32(head[0:]),
		Request: binary.NativeEndian.Uint32(head[4:]),
	}
	size := binary.NativeEndian.Uint32(head[12:])
	if size > MaxPayload {
		return Message{}, fmt.Errorf("%w: payload of %d bytes", ErrMalformed, size)
	}
	m.Payload = make([]byte, size)
	if _, err := io.ReadFull(r, m.Payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Message{}, err
	}
	return m, nil
}

// Words returns the strings of a payload, each of which ends with a NUL.
func Words(payload []byte) ([]string, error) {
	var ws []string
	for len(payload) > 0 {
		word, rest, ended := bytes.Cut(payload, []byte{0})
		if !ended {
			return nil, fmt.Errorf("%w: string without an end", ErrMalformed)
		}
		ws = append(ws, string(word))
		payload = rest
	}
	return ws, nil
}
