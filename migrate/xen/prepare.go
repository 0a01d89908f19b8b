// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/umbra-vm/umbra/drivers/pci"
	"github.com/umbra-vm/umbra/migrate"
	"github.com/umbra-vm/umbra/migrate/inventory"
	"github.com/umbra-vm/umbra/migrate/remote"
	"github.com/umbra-vm/umbra/migrate/xen/pcifront"
)

// A Host runs lines in the shell of a host's dom0. Errors of the line itself match
// [remote.ErrCommand]; after others it is not known whether it was run. The end of ctx
// need not end the line.
type Host interface {
	Run(ctx context.Context, line string, in io.Reader, out io.Writer) error
	String() string
}

// Options of a move. Domain and Config are required.
type Options struct {
	Domain string // on the source

	// Config is the text of the xl.cfg that the domain has on the destination. It
	// names its devices there.
	Config []byte

	// Force goes on where a check speaks against it that may be wrong, or that is the
	// user's to judge.
	Force bool

	// Unplug, if not nil, tells a paravirtual guest that goes on at the source that its device
	// at an address is about to be taken from it, within a time: see package comment.
	Unplug func(ctx context.Context, address string, within time.Duration) error

	// OnStep, if not nil, is called when a step begins, as it goes on, and when it is
	// over. It must not block.
	OnStep func(Step)
}

// The steps of a move.
const (
	StepCheck  = "check"
	StepCarry  = "carry"  // stopped and saved there, restored here
	StepStart  = "start"  // on the destination
	StepGive   = "give"   // the destination's devices to a paravirtual guest
	StepRemove = "remove" // from the source
	StepReturn = "return" // the roll-back
)

// A Step is one as it happens.
type Step struct {
	Op    string
	Bytes int64 // carried so far
	Over  bool
	Err   error // if it is over
}

// A Plan is a move that nothing speaks against.
type Plan struct {
	opts     Options
	src, dst Host
	domain   config // as it is
	there    config // as it will be
	id       int    // of the domain on the source
	page     string // by which a paravirtual guest asks for its devices; see package pcifront
	file     string // the configuration on the destination

	// Devices are those that the guest will have passed through, with their addresses
	// in it.
	Devices []inventory.Device

	// Leaves are the addresses in the guest of those that it has now. Nil if they are
	// not known.
	Leaves []string
	leaves []attached

	// SourceCtl and DestinationCtl are the sockets on the hosts that lead to the
	// guest's agent, empty if a configuration has none.
	SourceCtl, DestinationCtl string

	// Ignored is what Force has gone over.
	Ignored []error
}

// commandTimeout is how long a line may take that only asks, or that does something to a
// domain which takes no long time.
const commandTimeout = time.Minute

// ask runs a line that changes nothing.
func ask(ctx context.Context, h Host, line string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	var out bytes.Buffer
	err := h.Run(ctx, line, nil, &out)
	return out.String(), err
}

// do runs a line that changes something, whatever becomes of ctx meanwhile: how it has
// ended has to be known.
func do(ctx context.Context, h Host, line string) error {
	_, err := ask(context.WithoutCancel(ctx), h, line)
	return err
}

// quote makes a word that sh reads as s.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func list(ctx context.Context, h Host) (map[string]state, error) {
	text, err := ask(ctx, h, "xl list")
	if err != nil {
		return nil, err
	}
	return parseList(text)
}

// Prepare checks everything that can be checked of both hosts and changes nothing, but
// for a temporary file on the destination, which Discard removes. Errors match
// [ErrRefused], [migrate.ErrNotRunning], [ErrOutput], or are those of a host.
func Prepare(ctx context.Context, src, dst Host, opts Options) (*Plan, error) {
	p := &Plan{src: src, dst: dst, opts: opts}
	p.step(Step{Op: StepCheck})
	err := p.prepare(ctx)
	p.step(Step{Op: StepCheck, Over: true, Err: err})
	if err != nil {
		p.Discard(ctx)
		return nil, err
	}
	return p, nil
}

// Discard removes what Prepare has made.
func (p *Plan) Discard(ctx context.Context) {
	if p.file != "" {
		// It is a file of a few hundred bytes, in a directory that a boot empties.
		_ = do(ctx, p.dst, "rm -f "+quote(p.file))
		p.file = ""
	}
}

func (p *Plan) step(s Step) {
	if p.opts.OnStep != nil {
		p.opts.OnStep(s)
	}
}

func (p *Plan) prepare(ctx context.Context) error {
	var hosts [2]info
	var lists [2]map[string]state
	for i, h := range []Host{p.src, p.dst} {
		text, err := ask(ctx, h, "xl info")
		if err != nil {
			return err
		}
		if hosts[i], err = parseInfo(text); err != nil {
			return fmt.Errorf("%v: %w", h, err)
		}
		if lists[i], err = list(ctx, h); err != nil {
			return fmt.Errorf("%v: %w", h, err)
		}
	}
	s, ok := lists[0][p.opts.Domain]
	if !ok {
		return fmt.Errorf("%w: %v has no domain %q", migrate.ErrNotRunning, p.src, p.opts.Domain)
	}
	if !s.runs() {
		return fmt.Errorf("%w: domain %q is %s", migrate.ErrNotRunning, p.opts.Domain, s.describe())
	}
	p.id = s.id
	if err := p.read(ctx); err != nil {
		return err
	}
	p.SourceCtl, p.DestinationCtl = p.domain.ctl(), p.there.ctl()
	hard, soft := p.against(hosts[0], hosts[1], lists[1])
	taken, unset, err := p.devices(ctx)
	if err != nil {
		return err
	}
	lines, err := p.lines(ctx)
	if err != nil {
		return err
	}
	own, err := p.ownWay(ctx)
	if err != nil {
		return err
	}
	page, err := p.frontEnd(ctx)
	if err != nil {
		return err
	}
	hard, soft = append(hard, taken...), slices.Concat(soft, unset, lines, own, page)
	if p.opts.Force {
		p.Ignored, soft = soft, nil
	}
	if all := append(hard, soft...); len(all) > 0 {
		return fmt.Errorf("%w: %w", ErrRefused, errors.Join(all...))
	}
	return nil
}

// read asks for both configurations, and where the guest has its devices.
func (p *Plan) read(ctx context.Context) error {
	text, err := ask(ctx, p.src, "xl list -l "+quote(p.opts.Domain))
	if err != nil {
		return err
	}
	if p.domain, err = parseDomain([]byte(text)); err != nil {
		return fmt.Errorf("%v: %w", p.src, err)
	}
	switch p.domain.Create.Type {
	case "pv":
		p.Leaves = []string{}
		for n := range p.domain.PCI {
			p.Leaves = append(p.Leaves, p.domain.guestAddress(n))
		}
	case "hvm":
		text, err := ask(ctx, p.src, "xl pci-list "+quote(p.opts.Domain))
		if err != nil {
			return err
		}
		if p.leaves, err = parseAttached(text); err != nil {
			return fmt.Errorf("%v: %w", p.src, err)
		}
		p.Leaves = []string{} // which is known
		for _, a := range p.leaves {
			p.Leaves = append(p.Leaves, a.guest)
		}
	}
	var out bytes.Buffer
	put := `umask 077; f=$(mktemp /run/umbra.XXXXXX) && cat > "$f" && echo "$f"`
	if err := p.dst.Run(ctx, put, bytes.NewReader(p.opts.Config), &out); err != nil {
		return err
	}
	p.file = strings.TrimSpace(out.String())
	text, err = ask(ctx, p.dst, "xl create -q -n "+quote(p.file))
	if errors.Is(err, remote.ErrCommand) {
		return fmt.Errorf("%w: the configuration: %w", ErrRefused, err)
	}
	if err != nil {
		return err
	}
	p.there, err = parseConfig([]byte(text))
	if err != nil {
		return fmt.Errorf("%v: %w", p.dst, err)
	}
	return nil
}

// against returns what speaks against the move: what makes it fail, and what may do so.
func (p *Plan) against(src, dst info, there map[string]state) (hard, soft []error) {
	say := func(to *[]error, format string, args ...any) { *to = append(*to, fmt.Errorf(format, args...)) }
	here, name := p.domain, p.there.Create.Name
	if here.Create.Type != p.there.Create.Type {
		say(&hard, "the domain is of type %s, the configuration of type %s", here.Create.Type, p.there.Create.Type)
	}
	if _, taken := there[name]; taken {
		say(&hard, "%v has a domain %q", p.dst, name)
	}
	// Xen takes a domain from the same or an older release.
	if dst.major < src.major || dst.major == src.major && dst.minor < src.minor {
		say(&hard, "%v has Xen %s, older than the source's %s", p.dst, dst.version, src.version)
	}
	if p.there.Build.MaxMemKB != here.Build.MaxMemKB {
		say(&hard, "the domain has %d KiB of memory, the configuration %d KiB", here.Build.MaxMemKB, p.there.Build.MaxMemKB)
	}
	if dst.freeMB < p.there.neededMB() {
		say(&soft, "%v has %d MiB of free memory, the domain needs %d (dom0 may give some)", p.dst, dst.freeMB, p.there.neededMB())
	}
	return hard, soft
}

// frontEnd finds the page by which a paravirtual guest with a device in use asks for it, and
// returns what speaks against its being answered on the destination.
func (p *Plan) frontEnd(ctx context.Context) (against []error, err error) {
	if p.domain.Create.Type != "pv" || len(p.domain.PCI) == 0 {
		return nil, nil
	}
	const instead = "a paravirtual guest with a device in use does not live on after it, or not soon: " +
		"xl pci-detach it before, and xl pci-attach the other after the move"
	if p.domain.Build.Leaves != "True" || p.there.Build.Leaves != "True" {
		return []error{errors.New(instead + ", or have migrate_devices = 1 in both configurations, and the patches on both hosts")}, nil
	}
	page, err := ask(ctx, p.src, "umbra pcifront "+quote(p.opts.Domain))
	if err == nil {
		_, err = ask(ctx, p.dst, "umbra pcifront --help")
	}
	if errors.Is(err, remote.ErrCommand) {
		return []error{fmt.Errorf("%s, or have umbra on both hosts, where root's PATH finds it: %w", instead, err)}, nil
	}
	if err != nil {
		return nil, err
	}
	p.page = strings.TrimSpace(page)
	if _, err := pcifront.Parse(p.page); err != nil {
		return nil, fmt.Errorf("%v: umbra pcifront: %w", p.src, err)
	}
	return nil, p.dst.Run(ctx, "cat >> "+quote(p.file), strings.NewReader(without), io.Discard)
}

// without makes of a paravirtual guest's configuration one with no device, to which devices
// may be attached. Of two lines for a name, xl takes the last.
const without = `
pci = []
passthrough = "enabled"
e820_host = 1
`

// lines looks for devices that interrupt by a line and leave their slot empty. Xen saves the
// line as it is (irq_save_pci, xen/arch/x86/hvm/irq.c), and if it is raised only a device
// in the same slot lowers it. A Xen that knows of migrate_devices does not.
func (p *Plan) lines(ctx context.Context) (against []error, err error) {
	if p.domain.Build.Leaves == "True" {
		return nil, nil
	}
	for _, left := range p.leaves {
		follows := func(d passed) bool { return d.Vdevfn != 0 && address(d.Vdevfn) == left.guest }
		if slices.ContainsFunc(p.there.PCI, follows) {
			continue
		}
		text, err := ask(ctx, p.src, fmt.Sprintf(spaceLine, pci.ConfigSize, left.host))
		if err != nil {
			return nil, err
		}
		line, err := parseLine(text)
		if err != nil {
			return nil, fmt.Errorf("%v: device %s: %w", p.src, left.host, err)
		}
		if line {
			against = append(against, fmt.Errorf("the guest's device at %s interrupts by a line, and no device of the configuration "+
				"is said to be there (@SLOT): a line that is raised when the guest is stopped stays so, and the guest stands still", left.guest))
		}
	}
	return against, nil
}

// controlLine prints what xenstore has of the guest's control, of which suspends is a part
// if its kernel takes part in its suspension (setup_shutdown_watcher, drivers/xen/manage.c).
const (
	controlLine = "xenstore-ls -f /local/domain/%d/control 2>/dev/null || :"
	suspends    = `/control/feature-suspend = "1"`
)

// ownWay looks for an HVM guest with a device in use whose kernel takes part in its
// suspension. Such a kernel has its interrupts from Xen by number, and takes up those of the
// device that it has left again, which are the next one's by then ("save/restore of PT devices
// doesn't work", restore_pirqs, drivers/xen/events/events_base.c).
func (p *Plan) ownWay(ctx context.Context) (against []error, err error) {
	if len(p.leaves) == 0 {
		return nil, nil
	}
	text, err := ask(ctx, p.src, fmt.Sprintf(controlLine, p.id))
	if err != nil || !strings.Contains(text, suspends) {
		return nil, err
	}
	return []error{errors.New("the guest takes part in its suspension, as without xen_nopv on its command line, and the interrupts of " +
		"its next device may not come: have it give its device back before, xl pci-detach that, and xl pci-attach the other after the move")}, nil
}

// devices finds out what the destination's devices are, and returns what speaks against
// giving them to the domain. The soft reasons are those that cannot be reset: a device that
// was left in use, by a domain that was moved, goes on to write where its driver has told it
// to as soon as the next driver lets it be a bus master, and drivers do so before they
// reset it.
func (p *Plan) devices(ctx context.Context) (hard, soft []error, err error) {
	if len(p.there.PCI) == 0 {
		return nil, nil, nil
	}
	text, err := ask(ctx, p.dst, "xl pci-assignable-list")
	if err != nil {
		return nil, nil, err
	}
	free := parseAssignable(text)
	var names []string
	for _, d := range p.there.PCI {
		names = append(names, d.String())
	}
	if text, err = ask(ctx, p.dst, fmt.Sprintf(idsLine, strings.Join(names, " "))); err != nil {
		return nil, nil, err
	}
	found, err := parseIDs(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%v: %w", p.dst, err)
	}
	for i, d := range p.there.PCI {
		is, there := found[d.String()]
		switch {
		case !there:
			hard = append(hard, fmt.Errorf("%v has no device %v", p.dst, d))
			continue
		case slices.Contains(free, d.String()):
		case is.driver == "pciback":
			hard = append(hard, fmt.Errorf("%v: device %v is in use by another domain", p.dst, d))
		case !d.Seize:
			hard = append(hard, fmt.Errorf("%v: device %v is not assignable: xl pci-assignable-add %v", p.dst, d, d))
		}
		if !is.reset {
			soft = append(soft, fmt.Errorf("%v: device %v cannot be reset: if it was left in use, it writes into the guest's memory", p.dst, d))
		}
		p.Devices = append(p.Devices, inventory.Device{
			ID: d.String(), Address: p.there.guestAddress(i), Class: uint16(is.class >> 8),
			Vendor: is.vendor, Device: is.device, SubVendor: is.subVendor, SubDevice: is.subDevice,
		})
	}
	return hard, soft, nil
}
