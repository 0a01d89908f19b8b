// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package drivers finds the devices of a machine and the kernel modules that
// drive them, loads and unloads those, and tells whether a device still is the
// one the kernel set up.
//
// It is what udev and modprobe do together on a distribution, as a library for
// programs that have neither: an init in an initramfs, an appliance, an agent
// that exchanges drivers while a machine runs. The parts can be used alone:
// modalias matches ids, kmod loads modules with their dependencies, modinfo
// reads module files and writes the index files depmod(8) would, pci reads
// configuration space, xenstore reads and writes what a Xen guest shares with its
// host. drivertest is a machine to test against.
//
// Everything is read anew from sysfs at each call; a Tree caches only the module
// index. Whatever changes the kernel goes through the Kernel interface, and
// nothing else in a program should load modules beside it. The package does not
// know why its caller wants a driver loaded or a device verified, and writes
// down nothing.
package drivers

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/drivers/kmod"
	"github.com/umbra-vm/umbra/drivers/pci"
	"github.com/umbra-vm/umbra/drivers/xenstore"
)

// Kernel is all that this package changes in a kernel.
type Kernel interface {
	kmod.Kernel
	// WriteAttr writes value to the sysfs file path. Errors are those of open(2)
	// and write(2): what a bus or driver has to say against it.
	WriteAttr(path, value string) error
	// WriteConfig writes a register of configuration space, whose sysfs file is
	// path, in one access. Errors are those of open(2) and pwrite(2).
	WriteConfig(path string, offset int64, register []byte) error
}

// Linux is the running kernel.
type Linux struct{ kmod.Linux }

var _ Kernel = Linux{}

// WriteAttr implements Kernel.
func (Linux) WriteAttr(path, value string) error {
	// Without O_CREATE and O_TRUNC, unlike os.WriteFile: a missing attribute has
	// to read as ENOENT, not as a lack of permission.
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, value)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// WriteConfig implements Kernel.
func (Linux) WriteConfig(path string, offset int64, register []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(register, offset)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// A Tree is the hardware side of one machine. Its methods may be called from any
// number of goroutines. No system call behind them can be interrupted: a context
// that ends stops an operation between two calls.
type Tree struct {
	sysfs   string
	modules string
	kernel  Kernel
	log     *slog.Logger
	index   *kmod.Index
	loader  *kmod.Loader
	buses   []bus

	mu   sync.Mutex
	told map[string]Verdict // the last one logged, by device

	power sync.Mutex         // held while slots are given power or lose it
	lit   map[string]litSlot // by address of the port
}

// An Option changes what New builds.
type Option func(*Tree)

// WithSysfs sets where sysfs is mounted; the default is /sys.
func WithSysfs(root string) Option { return func(t *Tree) { t.sysfs = root } }

// WithModules sets the directory of modules and their index files; the default
// is /lib/modules/RELEASE of the running kernel.
func WithModules(dir string) Option { return func(t *Tree) { t.modules = dir } }

// WithKernel sets the kernel that is changed; the default is Linux.
func WithKernel(k Kernel) Option { return func(t *Tree) { t.kernel = k } }

// WithXenstore sets how the xenstore of this guest is reached, in which the front ends
// of bus "xen" have their back ends; the default is xenstore.Open.
func WithXenstore(open func() (*xenstore.Conn, error)) Option {
	return func(t *Tree) { t.buses = []bus{pciBus{}, xenBus{open}} }
}

// WithLogger sets the logger; the default discards.
func WithLogger(log *slog.Logger) Option { return func(t *Tree) { t.log = log } }

// New reads the module index and returns the Tree. It fails when there is no
// modules.dep or when an index file is malformed.
func New(opts ...Option) (*Tree, error) {
	t := &Tree{
		told:   make(map[string]Verdict),
		lit:    make(map[string]litSlot),
		sysfs:  "/sys",
		kernel: Linux{},
		log:    slog.New(slog.DiscardHandler),
	}
	WithXenstore(xenstore.Open)(t)
	for _, opt := range opts {
		opt(t)
	}
	if t.modules == "" {
		var u unix.Utsname
		if err := unix.Uname(&u); err != nil {
			return nil, fmt.Errorf("drivers: kernel release: %w", err)
		}
		t.modules = filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:]))
	}
	var err error
	if t.index, err = kmod.ReadIndex(t.modules); err != nil {
		return nil, fmt.Errorf("drivers: %w", err)
	}
	t.loader = kmod.NewLoader(t.index, t.kernel, t.sysfs, t.log)
	return t, nil
}

// A Device is what a bus scan finds: a snapshot, which Tree.Device renews.
type Device struct {
	Bus      string // "pci", "xen", or "virtio" for what a virtio function offers
	Address  string // on that bus: "0000:00:02.0", "vif-0", "virtio0"
	Path     string // sysfs directory, resolved
	Inode    uint64 // of that directory, which no other device has had or will have; 0 if unknown
	Modalias string
	Driver   string  // bound driver, "" when none
	Module   string  // of that driver, with underscores; "" when built in
	IDs      pci.IDs // virtio devices have a vendor and a device id only
	Class    uint32  // PCI class code, 24 bits; what it would be on bus "xen"; 0 elsewhere
	// Children are devices of other buses that the driver made, such as the
	// virtio device below a virtio PCI function. PCI functions behind a bridge
	// are devices of their own.
	Children []Device
}

// String names the device for logs and errors: "pci 0000:00:02.0".
func (d Device) String() string { return d.Bus + " " + d.Address }

// LoadModule loads a module by name or alias with what it needs. params are
// "key=value key=value" and go to that module. A module that is loaded already
// is a success, unless there are params: ErrLoaded, as they cannot take effect.
func (t *Tree) LoadModule(ctx context.Context, name, params string) error {
	return t.loader.Load(ctx, name, params)
}

// Prefetch loads modules before their devices are there, so that a device that
// turns up is probed at once: it takes reading, relocating and linking off the
// path that matters. Dependencies come first, independent modules are loaded at
// the same time. The error joins those of all modules that were not loaded.
func (t *Tree) Prefetch(ctx context.Context, modules ...string) error {
	return t.loader.Prefetch(ctx, modules...)
}

// Unload removes a module from the kernel, and with it its driver from all its
// devices. It returns when the driver has let go, which on hardware that has
// gone can take seconds: e1000e polls registers for 3.3 s. A module that is not
// loaded is a success; errors are ErrInUse and ErrBuiltin. What the module
// needed stays loaded: it drives nothing, and the next driver may need it.
func (t *Tree) Unload(ctx context.Context, module string) error {
	return t.loader.Unload(ctx, module)
}

// Loaded reports whether a module can do its work: it is live or built in.
func (t *Tree) Loaded(module string) bool {
	return t.Builtin(module) || t.loader.State(module) == kmod.Live
}

// Builtin reports whether a module is part of the kernel image.
func (t *Tree) Builtin(module string) bool {
	m, ok := t.index.Module(module)
	return ok && m.Builtin
}
