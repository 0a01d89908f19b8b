// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xenlab

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/image/machine"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// imageDir is where a bundle lies in dom0.
const imageDir = "/image"

// ImageFiles are the files of a bundle for dom0.Options.Files.
func ImageFiles(b *image.Bundle) map[string]string {
	files := make(map[string]string)
	for name := range b.Files {
		files[path.Join(imageDir, name)] = filepath.Join(b.Dir, name)
	}
	return files
}

// Passed is a device of the host that is passed through to a domain.
type Passed struct {
	Device string // its address in the host: "0000:00:04.0"
	Slot   int    // its slot in the guest
}

func (p Passed) String() string { return fmt.Sprintf("%s@%d", p.Device, p.Slot) }

// DomainOptions describe a domain. Name and Bundle are required.
type DomainOptions struct {
	Name   string
	Bundle *image.Bundle // whose files are in dom0
	PCI    []Passed
	// Cmdline is added to that of the bundle.
	Cmdline string
}

// config is the file that umbra build has written for xl, and after it what is
// different here; of two settings of a name xl takes the last.
func (o DomainOptions) config() (string, error) {
	text, err := os.ReadFile(filepath.Join(o.Bundle.Dir, o.Bundle.Name+".xl.cfg"))
	if err != nil {
		return "", err
	}
	var pci []string
	for _, p := range o.PCI {
		pci = append(pci, p.String())
	}
	own := map[string]string{
		"name":                  strconv.Quote(o.Name),
		"kernel":                strconv.Quote(path.Join(imageDir, image.KernelFile)),
		"ramdisk":               strconv.Quote(path.Join(imageDir, o.Bundle.Initramfs)),
		"pci":                   list(pci),
		"serial":                strconv.Quote("file:" + o.console()),
		"device_model_args_hvm": list(machine.Machine{Ctl: image.XenCtl(o.Name)}.CtlArgs()),
	}
	if o.Cmdline != "" {
		own["cmdline"] = strconv.Quote(o.Bundle.Cmdline + " xen_nopv " + o.Cmdline)
	}
	var b strings.Builder
	b.Write(text)
	for _, key := range slices.Sorted(maps.Keys(own)) {
		fmt.Fprintf(&b, "%s = %s\n", key, own[key])
	}
	return b.String(), nil
}

func list(in []string) string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = strconv.Quote(s)
	}
	return "[ " + strings.Join(out, ", ") + " ]"
}

// console is the file in dom0 that has what the guest prints.
func (o DomainOptions) console() string { return "/run/" + o.Name + ".console" }

// A Domain is a guest of a host.
type Domain struct {
	DomainOptions
	Host *Host
}

// Assign takes devices of the host from their drivers, so that domains can have
// them.
func (h *Host) Assign(ctx context.Context, devices ...string) error {
	for _, d := range devices {
		if _, err := h.Run(ctx, "xl pci-assignable-add "+d); err != nil {
			return err
		}
	}
	return nil
}

// Create makes a domain and starts it.
func (h *Host) Create(ctx context.Context, opts DomainOptions) (*Domain, error) {
	cfg, err := h.putConfig(ctx, opts)
	if err != nil {
		return nil, err
	}
	if _, err := h.Run(ctx, "xl create "+cfg); err != nil {
		return nil, err
	}
	return &Domain{opts, h}, nil
}

// putConfig writes the domain's configuration in dom0 and returns its path.
func (h *Host) putConfig(ctx context.Context, opts DomainOptions) (string, error) {
	text, err := opts.config()
	if err != nil {
		return "", err
	}
	name := "/run/" + opts.Name + ".cfg"
	return name, h.Put(ctx, name, strings.NewReader(text))
}

// Follow copies what the guest prints, from the first byte on, to out, until ctx
// ends.
func (d *Domain) Follow(ctx context.Context, out io.Writer) error {
	return d.Host.Stream(ctx, fmt.Sprintf("touch %[1]s; exec tail -n +1 -f %[1]s", d.console()), nil, out)
}

// Ctl connects to the agent in the guest.
func (d *Domain) Ctl() (*ctl.Client, error) {
	c, err := d.Host.Dial(image.XenCtl(d.Name))
	if err != nil {
		return nil, fmt.Errorf("domain %s: connecting to the agent: %w", d.Name, err)
	}
	return ctl.NewClient(c, nil), nil
}

// Moved says when a move had come how far, by this machine's clock.
type Moved struct {
	Began    time.Time
	Saved    time.Time // "xl save" had ended, or at least said so
	Restored time.Time // "xl restore" had ended: the guest runs
}

// fifo is what a domain on its way goes through, in dom0.
const fifo = "/run/move"

// Move stops the domain, carries it to another host, or to the same one with other
// devices, and resumes it there as opts say. Nothing in the guest is asked or told.
// If it fails, the domain may be on either side, or on none.
func (d *Domain) Move(ctx context.Context, to *Host, opts DomainOptions) (*Domain, Moved, error) {
	var m Moved
	cfg, err := to.putConfig(ctx, opts)
	if err != nil {
		return nil, m, err
	}
	for _, h := range []*Host{d.Host, to} {
		if _, err := h.Run(ctx, fmt.Sprintf("rm -f %[1]s && mkfifo %[1]s", fifo)); err != nil {
			return nil, m, err
		}
	}
	save := fmt.Sprintf("xl save %s %s", d.Name, fifo)
	restore := fmt.Sprintf("xl restore %s %s", cfg, fifo)
	// On one host the FIFO is all that it takes; between two the stream goes through
	// this process.
	pr, pw := io.Pipe()
	out, in := io.Writer(io.Discard), io.Reader(nil)
	if d.Host != to {
		out, in = pw, pr
		save = fmt.Sprintf("cat %s & %s >&2 && wait", fifo, save)
		restore = fmt.Sprintf("exec 3<&0; cat <&3 > %s & %s >&2", fifo, restore)
	}
	g, ctx := errgroup.WithContext(ctx)
	m.Began = time.Now()
	g.Go(func() error {
		err := d.Host.Stream(ctx, save, nil, out)
		m.Saved = time.Now()
		pw.CloseWithError(err)
		return err
	})
	g.Go(func() error {
		err := to.Stream(ctx, restore, in, io.Discard)
		m.Restored = time.Now()
		pr.CloseWithError(err)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, m, fmt.Errorf("move of domain %s: %w", d.Name, err)
	}
	return &Domain{opts, to}, m, nil
}
