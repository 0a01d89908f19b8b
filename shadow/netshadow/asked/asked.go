// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package asked tells what is asked of network interfaces and announced to nobody.
//
// A bond with fail_over_mac=active has the address of its active port: it takes
// the request for another with success and does nothing (drivers/net/bonding/bond_main.c,
// bond_set_mac_address). The kernel announces the address that the interface has,
// not the one that was asked for. Nor does Linux 6.1 announce what is set by an
// ioctl that has no netlink message yet: receive hashing and rules, and time stamps. eBPF
// programs on the functions that do these things see them all, whoever asked.
// They run when something is asked, and never for a packet.
//
// The package must never know what becomes of the wish.
package asked

// The object is committed, so that clang is needed only to change the programs.
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target amd64 -go-package asked -no-global-types -cflags "-O2 -g -Wall -Werror -I/usr/include" -output-stem requests requests bpf/asked.c

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
)

// A Request says that somebody asked for something, and was told that it is done.
type Request struct {
	// Index is the ifindex of the interface that was given an address; 0 if some
	// interface was set by an ioctl, and what is to be read again is all of them.
	Index int
	MAC   net.HardwareAddr // of a request for an address
}

// A Watcher sees requests made from its creation on.
type Watcher struct {
	objects requestsObjects
	links   []link.Link
	reader  *ringbuf.Reader
}

// New attaches the programs. It fails on a kernel without type information, or
// one that allows no eBPF.
func New() (*Watcher, error) {
	w := new(Watcher)
	if err := w.attach(); err != nil {
		return nil, errors.Join(fmt.Errorf("asked: %w", err), w.Close())
	}
	return w, nil
}

func (w *Watcher) attach() (err error) {
	if err := loadRequestsObjects(&w.objects, nil); err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	if w.reader, err = ringbuf.NewReader(w.objects.Requests); err != nil {
		return fmt.Errorf("open buffer: %w", err)
	}
	for _, p := range []*ebpf.Program{w.objects.Address, w.objects.Ethtool, w.objects.Ioctl} {
		l, err := link.AttachTracing(link.TracingOptions{Program: p})
		if err != nil {
			return fmt.Errorf("attach %s: %w", p, err)
		}
		w.links = append(w.links, l)
	}
	return nil
}

// Close detaches the programs.
func (w *Watcher) Close() error {
	var errs []error
	for _, l := range w.links {
		errs = append(errs, l.Close())
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
			return fmt.Errorf("asked: read buffer: %w", err)
		}
		r, err := parse(rec.RawSample)
		if err != nil {
			return fmt.Errorf("asked: %w", err)
		}
		f(r)
	}
}

// Kinds of struct request of bpf/asked.c.
const (
	kindAddress = iota
	kindCall
)

// parse decodes struct request of bpf/asked.c.
func parse(b []byte) (Request, error) {
	if len(b) < 16 {
		return Request{}, fmt.Errorf("request of %d bytes", len(b))
	}
	switch kind := binary.NativeEndian.Uint32(b); kind {
	case kindAddress:
		return Request{
			Index: int(binary.NativeEndian.Uint32(b[4:])),
			MAC:   append(net.HardwareAddr(nil), b[8:14]...),
		}, nil
	case kindCall:
		return Request{}, nil
	default:
		return Request{}, fmt.Errorf("request of kind %d", kind)
	}
}
