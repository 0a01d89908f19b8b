// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package xenctl listens to what the Xen toolstack asks of a guest: xl
// shutdown and xl reboot, which reach it as a value of control/shutdown in
// xenstore.
//
// It is a client of xenstore no larger than that needs: read, write, watch. It
// must never know what a shutdown consists of. Suspend, and with it migration,
// is the kernel's own business (drivers/xen/manage.c) and left alone.
package xenctl

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Message types (enum xsd_sockmsg_type of xen/include/public/io/xs_wire.h).
const (
	typeRead       = 2
	typeWatch      = 4
	typeWrite      = 11
	typeWatchEvent = 15
	typeError      = 16
)

const (
	headerLen  = 16
	maxPayload = 4096 // XENSTORE_PAYLOAD_MAX
)

// ErrWire says that bytes are not a message of xenstore's protocol.
var ErrWire = errors.New("malformed xenstore message")

// message is one message: struct xsd_sockmsg and the payload that follows it.
// Transactions are not used; their field is 0.
type message struct {
	kind    uint32
	request uint32 // a reply bears the number of its request
	payload []byte
}

// encode returns the bytes of a message.
func (m message) encode() ([]byte, error) {
	if len(m.payload) > maxPayload {
		return nil, fmt.Errorf("%w: payload of %d bytes", ErrWire, len(m.payload))
	}
	b := make([]byte, headerLen, headerLen+len(m.payload))
	binary.NativeEndian.PutUint32(b[0:], m.kind)
	binary.NativeEndian.PutUint32(b[4:], m.request)
	binary.NativeEndian.PutUint32(b[12:], uint32(len(m.payload)))
	return append(b, m.payload...), nil
}

// readMessage reads one message.
func readMessage(r io.Reader) (message, error) {
	var head [headerLen]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return message{}, err
	}
	m := message{
		kind:    binary.NativeEndian.Uint32(head[0:]),
		request: binary.NativeEndian.Uint32(head[4:]),
	}
	size := binary.NativeEndian.Uint32(head[12:])
	if size > maxPayload {
		return message{}, fmt.Errorf("%w: payload of %d bytes", ErrWire, size)
	}
	m.payload = make([]byte, size)
	if _, err := io.ReadFull(r, m.payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return message{}, err
	}
	return m, nil
}

// words returns the strings of a payload, each of which ends with a NUL.
func words(payload []byte) ([]string, error) {
	var ws []string
	for len(payload) > 0 {
		word, rest, ended := bytes.Cut(payload, []byte{0})
		if !ended {
			return nil, fmt.Errorf("%w: string without an end", ErrWire)
		}
		ws = append(ws, string(word))
		payload = rest
	}
	return ws, nil
}
