// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package macwatch tells which hardware address somebody gives to an interface.
//
// A bond with fail_over_mac=active has the address of its active port: it takes
// the request for another with success and does nothing (drivers/net/bonding/bond_main.c,
// bond_set_mac_address). The kernel announces the address that the interface has,
// so the one that was asked for is seen by an eBPF program on dev_set_mac_address()
// only. It runs when an address is set, and never for a packet.
//
// The package must never know what becomes of the wish.
package macwatch

// The object is committed, so that clang is needed only to change the program.
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target amd64 -go-package macwatch -no-global-types -cflags "-O2 -g -Wall -Werror -I/usr/include" -output-stem asked asked bpf/asked.c

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
)

// A Request says that somebody gave an interface an address, and was told that
// it is done.
type Request struct {
	Index int // ifindex
	MAC   net.HardwareAddr
}

// A Watcher sees requests made from its creation on.
type Watcher struct {
	objects askedObjects
	link    link.Link
	reader  *ringbuf.Reader
}

// New attaches the program. It fails on a kernel without type information, or
// one that allows no eBPF.
func New() (*Watcher, error) {
	w := new(Watcher)
	if err := w.attach(); err != nil {
		return nil, errors.Join(fmt.Errorf("macwatch: %w", err), w.Close())
	}
	return w, nil
}

func (w *Watcher) attach() (err error) {
	if err := loadAskedObjects(&w.objects, nil); err != nil {
		return fmt.Errorf("load program: %w", err)
	}
	if w.reader, err = ringbuf.NewReader(w.objects.Addresses); err != nil {
		return fmt.Errorf("open buffer: %w", err)
	}
	if w.link, err = link.AttachTracing(link.TracingOptions{Program: w.objects.Asked}); err != nil {
		return fmt.Errorf("attach to dev_set_mac_address: %w", err)
	}
	return nil
}

// Close detaches the program.
func (w *Watcher) Close() error {
	var errs []error
	if w.link != nil {
		errs = append(errs, w.link.Close())
	}
	if w.reader != nil {
		errs = append(errs, w.reader.Close())
	}
	return errors.Join(append(errs, w.objects.Close())...)
}

// Run calls f for every request until ctx ends, which is no error.
func (w *Watcher) Run(ctx context.Context, f func(Request)) error {
	defer context.AfterFunc(ctx, func() { w.reader.Close() })()
	for {
		rec, err := w.reader.Read()
		switch {
		case ctx.Err() != nil || errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("macwatch: read buffer: %w", err)
		}
		r, err := parse(rec.RawSample)
		if err != nil {
			return fmt.Errorf("macwatch: %w", err)
		}
		f(r)
	}
}

// parse decodes struct asked of bpf/asked.c.
func parse(b []byte) (Request, error) {
	if len(b) < 10 {
		return Request{}, fmt.Errorf("sample of %d bytes", len(b))
	}
	return Request{
		Index: int(binary.NativeEndian.Uint32(b)),
		MAC:   append(net.HardwareAddr(nil), b[4:10]...),
	}, nil
}
