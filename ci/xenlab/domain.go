// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xenlab

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/image/machine"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// Passed is a device of the host that is passed through to a domain.
type Passed struct {
	Device string // its address in the host, see [Device]
	Slot   int    // its slot in the guest; 0 for one that the guest's kind does not choose
}

func (p Passed) String() string {
	if p.Slot == 0 {
		return p.Device
	}
	return fmt.Sprintf("%s@%d", p.Device, p.Slot)
}

// DomainOptions describe a domain. Name and Bundle are required.
type DomainOptions struct {
	Name   string
	Bundle *image.Bundle // whose files are in dom0
	Kind   image.XenKind // image.XenHVM if empty
	MAC    string        // of a paravirtual NIC on Bridge; none if empty
	PCI    []Passed
	// Leaves says that the domain may be migrated with its devices in use. Only a
	// patched Xen knows what that is.
	Leaves bool
	// Aware is an HVM guest that knows that it is one of Xen's, and may have front ends.
	Aware bool
	// Plug says that the domain may be given devices while it runs, also if it has none
	// to begin with.
	Plug bool

	loader []string // of the device model of a new guest
}

// ramdisk is the line of an xl.cfg that a staged image must not have; those that need it
// get their own.
var ramdisk = regexp.MustCompile(`(?m)^ramdisk\b.*\n`)

// sysrq is for guests that hear "xl sysrq": when a test hangs they are asked what their
// processes wait for.
const sysrq = " sysrq_always_enabled"

// config is the file that umbra build has written for xl, and after it what is
// different here; of two settings of a name xl takes the last. The image is the staged
// one. khz is how fast the host's clock is.
func (o DomainOptions) config(khz int) (string, error) {
	kind := cmp.Or(o.Kind, image.XenHVM)
	text, err := os.ReadFile(filepath.Join(o.Bundle.Dir, kind.File(o.Bundle.Name)))
	if err != nil {
		return "", err
	}
	text = ramdisk.ReplaceAll(text, nil)
	var pci []string
	for _, p := range o.PCI {
		pci = append(pci, p.String())
	}
	own := map[string]string{
		"name": strconv.Quote(o.Name),
		"pci":  image.XLList(pci),
		// The emulated processor does not promise that its clock is steady, so that Xen
		// would read it for the guest, and the guest, which is too slow to measure it,
		// would use the HPET: either is a way out of the guest for every look at the clock.
		"tsc_mode": strconv.Quote("native"),
	}
	if kind == image.XenHVM {
		own["kernel"] = strconv.Quote(setupFile)
		own["serial"] = strconv.Quote("file:" + o.consoles()[0])
		own["device_model_args_hvm"] = image.XLList(append(machine.Machine{Ctl: image.XenCtl(o.Name)}.CtlArgs(), o.loader...))
		cmdline := kind.Cmdline(o.Bundle.Cmdline)
		if o.Aware {
			cmdline = o.Bundle.Cmdline + sysrq
		}
		own["cmdline"] = strconv.Quote(fmt.Sprintf("%s tsc=reliable tsc_early_khz=%d", cmdline, khz))
	} else {
		own["kernel"], own["ramdisk"] = strconv.Quote(wholeKernelFile), strconv.Quote(initramfsFile)
		own["channel"] = image.XLList(image.XenChannels(o.Name))
		own["cmdline"] = strconv.Quote(kind.Cmdline(o.Bundle.Cmdline) + sysrq)
	}
	if o.MAC != "" {
		own["vif"] = image.XLList([]string{"type=vif,mac=" + o.MAC + ",bridge=" + Bridge})
	}
	if o.Leaves {
		own["migrate_devices"] = "1"
	}
	if o.Plug {
		own["passthrough"] = strconv.Quote("enabled")
	}
	if o.Plug && kind == image.XenPV {
		own["e820_host"] = "1"
	}
	var b strings.Builder
	b.Write(text)
	for _, key := range slices.Sorted(maps.Keys(own)) {
		fmt.Fprintf(&b, "%s = %s\n", key, own[key])
	}
	return b.String(), nil
}

// consoles are the files in dom0 that have what the guest prints. Those of a guest that
// is no HVM guest are xenconsoled's, who calls a guest what it was called when it came.
func (o DomainOptions) consoles() []string {
	if cmp.Or(o.Kind, image.XenHVM) == image.XenHVM {
		return []string{"/run/" + o.Name + ".console"}
	}
	log := "/var/log/xen/guest-" + o.Name
	return []string{log + ".log", log + "--incoming.log"}
}

// A Domain is a guest of a host.
type Domain struct {
	DomainOptions
	Host *Host
}

// Assign takes a device of the host from its driver, so that domains can have it. It is
// reset by its port whenever a domain is given it, or has left it: what Linux would take
// before, a visit to D3, does not reset QEMU's e1000e.
func (h *Host) Assign(ctx context.Context, device string) error {
	_, err := h.Run(ctx, fmt.Sprintf("xl pci-assignable-add %[1]s && echo bus > /sys/bus/pci/devices/%[1]s/reset_method", device))
	return err
}

// Create makes a domain and starts it.
func (h *Host) Create(ctx context.Context, opts DomainOptions) (*Domain, error) {
	booted := opts
	booted.loader = loaderArgs()
	cfg, err := h.putConfig(ctx, booted)
	if err != nil {
		return nil, err
	}
	if _, err := h.Run(ctx, "xl create "+cfg); err != nil {
		return nil, err
	}
	return &Domain{opts, h}, nil
}

// Config is the xl.cfg of a domain on the host.
func (h *Host) Config(ctx context.Context, opts DomainOptions) (string, error) {
	khz, err := h.khz(ctx)
	if err != nil {
		return "", err
	}
	return opts.config(khz)
}

// putConfig writes the domain's configuration in dom0 and returns its path.
func (h *Host) putConfig(ctx context.Context, opts DomainOptions) (string, error) {
	text, err := h.Config(ctx, opts)
	if err != nil {
		return "", err
	}
	name := "/run/" + opts.Name + ".cfg"
	return name, h.Put(ctx, name, strings.NewReader(text))
}

// Follow copies what the guest prints, from the first byte on, to out, until ctx
// ends.
func (d *Domain) Follow(ctx context.Context, out io.Writer) error {
	return d.Host.Stream(ctx, fmt.Sprintf("touch %[1]s; exec tail -q -n +1 -f %[1]s", strings.Join(d.consoles(), " ")), nil, out)
}

// Ctl connects to the agent in the guest.
func (d *Domain) Ctl() (*ctl.Client, error) {
	c, err := d.Host.Dial(image.XenCtl(d.Name))
	if err != nil {
		return nil, fmt.Errorf("domain %s: connecting to the agent: %w", d.Name, err)
	}
	return ctl.NewClient(c, nil), nil
}

// Stop asks the guest to end, and returns when the domain has gone.
func (d *Domain) Stop(ctx context.Context) error {
	_, err := d.Host.Run(ctx, "xl shutdown -w "+d.Name)
	return err
}

// Reboot asks the guest to boot again.
func (d *Domain) Reboot(ctx context.Context) error {
	_, err := d.Host.Run(ctx, "xl reboot "+d.Name)
	return err
}

// Moved says when a move had come how far, by this machine's clock.
type Moved struct {
	Began    time.Time
	Saved    time.Time // "xl save" had ended, or at least said so
	Restored time.Time // "xl restore" had ended: the guest runs
}

// fifo is what a domain on its way goes through, in dom0.
const fifo = "/run/move"

// Restore stops the domain, carries it over to other devices on its host, and resumes it
// as opts say: "xl save" and "xl restore" at once. Nothing in the guest is asked or told.
// If it fails, the domain may be there or not.
func (d *Domain) Restore(ctx context.Context, opts DomainOptions) (*Domain, Moved, error) {
	var m Moved
	cfg, err := d.Host.putConfig(ctx, opts)
	if err != nil {
		return nil, m, err
	}
	if _, err := d.Host.Run(ctx, fmt.Sprintf("rm -f %[1]s && mkfifo %[1]s", fifo)); err != nil {
		return nil, m, err
	}
	g, ctx := errgroup.WithContext(ctx)
	m.Began = time.Now()
	g.Go(func() error {
		_, err := d.Host.Run(ctx, fmt.Sprintf("xl save %s %s", d.Name, fifo))
		m.Saved = time.Now()
		return err
	})
	g.Go(func() error {
		_, err := d.Host.Run(ctx, fmt.Sprintf("xl restore %s %s", cfg, fifo))
		m.Restored = time.Now()
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, m, fmt.Errorf("move of domain %s: %w", d.Name, err)
	}
	return &Domain{opts, d.Host}, m, nil
}

// Migrate moves the domain to another host, or to other devices on its own, by "xl migrate"
// with its further options, over the hosts' link. The two sides agree on who has the domain:
// if the error matches [ErrCommand], it was refused or has failed, and the domain is where
// it was. What xl says goes to progress.
func (d *Domain) Migrate(ctx context.Context, to *Host, opts DomainOptions, options string, progress io.Writer) (*Domain, error) {
	// The source sends the configuration.
	cfg, err := d.Host.putConfig(ctx, opts)
	if err != nil {
		return nil, err
	}
	rune, receives := "xl migrate-receive", func() error { return nil }
	if d.Host != to {
		if !to.Link.Address.IsValid() {
			return nil, fmt.Errorf("migration of domain %s: host %s has no link", d.Name, to.Name)
		}
		rune = fmt.Sprintf("exec /init dial %v", netip.AddrPortFrom(to.Link.Address.Addr(), migrationPort))
		listening, stop := context.WithCancel(ctx)
		defer stop()
		var g errgroup.Group
		g.Go(func() error {
			return to.Stream(listening, fmt.Sprintf("nc -l -p %d -e xl migrate-receive", migrationPort), nil, io.Discard)
		})
		receives = g.Wait
	}
	line := fmt.Sprintf("xl migrate %s -C %s -s '' %s '%s' 2>&1", options, cfg, d.Name, rune)
	if err := d.Host.Stream(ctx, line, nil, progress); err != nil {
		return nil, fmt.Errorf("migration of domain %s: %w", d.Name, err)
	}
	if err := receives(); err != nil {
		// The domain has left: this is no ErrCommand.
		return nil, fmt.Errorf("migration of domain %s: the receiver: %v", d.Name, err)
	}
	return &Domain{opts, to}, nil
}

// migrationPort is what xl listens on for a domain of another host.
const migrationPort = 8002

// Arrival is what Xen's store has for the domain in control/arrival.
func (d *Domain) Arrival(ctx context.Context) (string, error) {
	out, err := d.Host.Run(ctx, fmt.Sprintf("xenstore-ls -f /local/domain/$(xl domid %s)/control", d.Name))
	for line := range strings.Lines(out) {
		if path, value, ok := strings.Cut(line, " = "); ok && strings.HasSuffix(path, "/arrival") {
			return strconv.Unquote(strings.TrimSpace(value))
		}
	}
	return "", err
}
