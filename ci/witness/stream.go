// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package witness

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/umbra-vm/umbra/ci/witness/internal/wire"
)

// A sender writes one direction of the connection.
type sender struct {
	dir wire.Direction

	mu      sync.Mutex // held while a write blocks: order is the point
	w       io.Writer
	seq     uint64
	offset  uint64
	payload []byte
	buf     []byte

	stat  sync.Mutex // of sent alone, so that it is read while a write blocks
	sent  uint64
	count uint64
}

// data sends the next data record.
func (s *sender) data(ack uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := wire.PayloadLen(s.dir, s.seq)
	if cap(s.payload) < n {
		s.payload = make([]byte, wire.MaxPayload)
	}
	s.payload = s.payload[:n]
	wire.Fill(s.payload, s.dir, s.seq)
	return s.writeLocked(wire.Data, ack, s.payload)
}

// control sends a record of another kind.
func (s *sender) control(kind wire.Kind, ack uint64, payload []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writeLocked(kind, ack, payload)
}

func (s *sender) writeLocked(kind wire.Kind, ack uint64, payload []byte) error {
	s.buf = wire.AppendRecord(s.buf[:0], wire.Header{Kind: kind, Seq: s.seq, Offset: s.offset, Ack: ack}, payload)
	n, err := s.w.Write(s.buf)
	s.stat.Lock()
	s.sent += uint64(n)
	s.count++
	s.stat.Unlock()
	s.seq++
	s.offset += uint64(len(s.buf))
	return err
}

// progress returns the records and bytes handed to the connection.
func (s *sender) progress() (records, bytes uint64) {
	s.stat.Lock()
	defer s.stat.Unlock()
	return s.count, s.sent
}

// tally is the verdict on one direction so far.
type tally struct {
	Records uint64 // intact
	Next    uint64 // offset in the sender's stream up to which it was judged
	Lost    uint64 // bytes that never came
	Corrupt uint64 // bytes that came altered, twice or from nowhere
}

// A receiver reads and judges one direction of the connection. After damage it
// searches for the next intact header and goes on, so that the damage is
// counted and not only noticed. It is used by one goroutine.
type receiver struct {
	dir     wire.Direction
	r       *bufio.Reader
	seq     uint64
	skipped uint64 // bytes read since the last intact record
	buf     []byte

	mu sync.Mutex
	t  tally
}

func newReceiver(r io.Reader, dir wire.Direction) *receiver {
	return &receiver{
		dir: dir,
		r:   bufio.NewReaderSize(r, 4*wire.MaxPayload),
		buf: make([]byte, wire.MaxPayload+wire.TrailerLen),
	}
}

func (r *receiver) tally() tally {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.t
}

// next returns the next intact record; its payload is valid until the next
// call. The error is that of the connection: io.EOF where the sender closed it
// in an orderly way, io.ErrUnexpectedEOF where it did so inside a record.
func (r *receiver) next() (wire.Header, []byte, error) {
	for {
		head, err := r.r.Peek(wire.HeaderLen)
		if err != nil {
			if err == io.EOF && len(head) > 0 {
				r.add(tally{Corrupt: uint64(len(head))})
				err = io.ErrUnexpectedEOF
			}
			return wire.Header{}, nil, err
		}
		h, err := wire.ParseHeader(head)
		if err != nil {
			// Not a header: step one byte and look again.
			r.r.Discard(1)
			r.skipped++
			continue
		}
		r.r.Discard(wire.HeaderLen)
		body := r.buf[:h.Length+wire.TrailerLen]
		if _, err := io.ReadFull(r.r, body); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return wire.Header{}, nil, err
		}
		if payload, ok := r.judge(h, body); ok {
			return h, payload, nil
		}
	}
}

// judge accounts for the record h and everything between it and the last one.
func (r *receiver) judge(h wire.Header, body []byte) ([]byte, bool) {
	payload := body[:h.Length]
	r.mu.Lock()
	defer r.mu.Unlock()
	skipped := r.skipped
	r.skipped = 0
	if h.Offset < r.t.Next {
		// It was here before: what came now came from nowhere.
		r.t.Corrupt += skipped + h.Size()
		return nil, false
	}
	// Of the bytes sent since the last record some were skipped as damaged;
	// the rest is lost. What was skipped beyond that was never sent.
	hole := h.Offset - r.t.Next
	r.t.Corrupt += skipped
	if hole > skipped {
		r.t.Lost += hole - skipped
	}
	r.t.Next = h.Offset + h.Size()
	seqOK := h.Seq == r.seq || hole > 0 && h.Seq > r.seq
	r.seq = h.Seq + 1
	if !seqOK || !wire.PayloadOK(body) || h.Kind == wire.Data && !r.isData(h, payload) {
		r.t.Corrupt += h.Size()
		return nil, false
	}
	r.t.Records++
	return payload, true
}

func (r *receiver) isData(h wire.Header, payload []byte) bool {
	return len(payload) == wire.PayloadLen(r.dir, h.Seq) && wire.Filled(payload, r.dir, h.Seq)
}

func (r *receiver) add(d tally) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.t.Lost += d.Lost
	r.t.Corrupt += d.Corrupt
}

// ErrUnasked says that the connection ended although the peer had not asked
// for it: whoever looks from outside calls that a lost connection, whatever
// the errno.
var ErrUnasked = errors.New("the connection ended unasked")

func unasked(op string, err error) error {
	return fmt.Errorf("%s: %w: %w", op, ErrUnasked, err)
}
