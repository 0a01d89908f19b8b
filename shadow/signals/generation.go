// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package signals

// The object is committed, so that clang is needed only to change the program.
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target amd64 -go-package signals -no-global-types -cflags "-O2 -g -Wall -Werror -I/usr/include" -output-stem generation generation bpf/generation.c

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
)

// GenerationID is a [Watcher] of the VM generation id: the hypervisor changes it and
// notifies the guest by ACPI when the guest goes on as a copy or elsewhere
// (Microsoft, "Virtual Machine Generation ID"; QEMU docs/specs/vmgenid.rst). Linux
// 6.1 has no uevent for it, so an eBPF program on the kernel's handler,
// vmgenid_notify() in drivers/virt/vmgenid.c, tells it. The program runs only then.
type GenerationID struct {
	objects generationObjects
	link    link.Link
	reader  *ringbuf.Reader
}

var errNoGeneration = errors.New("machine has no VM generation id device")

// NewGenerationID attaches the program. An error is an [*UnavailableError]: the
// machine has no such device, or the kernel no type information.
func NewGenerationID() (*GenerationID, error) {
	if err := findGeneration("/sys"); err != nil {
		return nil, &UnavailableError{Generation, err}
	}
	g := new(GenerationID)
	if err := g.attach(); err != nil {
		g.close()
		return nil, &UnavailableError{Generation, err}
	}
	return g, nil
}

// findGeneration looks for a device bound to the vmgenid driver.
func findGeneration(sysfs string) error {
	links, err := filepath.Glob(filepath.Join(sysfs, "bus/acpi/drivers/vmgenid/*:*"))
	if err != nil {
		return err
	}
	if len(links) == 0 {
		return errNoGeneration
	}
	return nil
}

func (g *GenerationID) attach() (err error) {
	if err := loadGenerationObjects(&g.objects, nil); err != nil {
		return fmt.Errorf("load program: %w", err)
	}
	if g.reader, err = ringbuf.NewReader(g.objects.Times); err != nil {
		return fmt.Errorf("open buffer: %w", err)
	}
	if g.link, err = link.AttachTracing(link.TracingOptions{Program: g.objects.Notified}); err != nil {
		return fmt.Errorf("attach to vmgenid_notify: %w", err)
	}
	return nil
}

func (g *GenerationID) close() error {
	var errs []error
	if g.link != nil {
		errs = append(errs, g.link.Close())
	}
	if g.reader != nil {
		errs = append(errs, g.reader.Close())
	}
	return errors.Join(append(errs, g.objects.Close())...)
}

// Source implements [Watcher].
func (g *GenerationID) Source() Source { return Generation }

// Watch implements [Watcher]. It detaches the program when it returns.
func (g *GenerationID) Watch(ctx context.Context, emit func(Migrated)) error {
	defer g.close()
	defer context.AfterFunc(ctx, func() { g.reader.Close() })()
	for {
		rec, err := g.reader.Read()
		switch {
		case ctx.Err() != nil || errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("signals: read generation buffer: %w", err)
		case len(rec.RawSample) < 8:
			return fmt.Errorf("signals: generation sample of %d bytes", len(rec.RawSample))
		}
		emit(Migrated{Source: Generation, At: int64(binary.NativeEndian.Uint64(rec.RawSample))})
	}
}
