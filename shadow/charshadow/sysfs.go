// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package charshadow

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/shadow/oplog"
)

// The keys of the class.
const (
	className    = "char"
	paramPrefix  = className + ".param." // then module and parameter: "char.param.nvme.poll_queues"
	sysfsPrefix  = className + ".sysfs." // then the file below the device: "char.sysfs.power/control"
	maxAttribute = 4096                  // bytes; a page is what sysfs passes at most (fs/sysfs/file.c)
)

// deviceSettings are the files of a device's sysfs directory that are
// replayed. A file is listed when it is a setting and not an action, is of the
// guest's choosing and not the host's hardware's, and has its effect while the
// driver is bound. The sources are Documentation/ABI/testing/sysfs-devices-power
// and sysfs-bus-pci.
//
// Left out, with the rule they break:
//
//	remove, rescan, reset, uevent     actions
//	config, resource*, rom            the hardware itself
//	enable                            counts its writers
//	driver_override                   chooses the driver: the manager does that
//	msi_bus, power/async              no effect on a bound driver
//	sriov_*                           makes other devices
//	numa_node, link/*, reset_method,  describe or tune the host's hardware
//	broken_parity_status
var deviceSettings = []string{
	"d3cold_allowed",
	"power/autosuspend_delay_ms",
	"power/control",
	"power/pm_qos_resume_latency_us",
	"power/wakeup",
}

// A Sysfs reads and replays the settings of devices. Root is where sysfs is
// mounted, and "/sys" if empty; a device's own directory is taken from the
// device.
type Sysfs struct{ Root string }

// Snapshot returns the settings that dev has now, sorted by key. Files that
// dev lacks, that nobody may read, and that refuse to be read, as
// autosuspend_delay_ms does for a driver without autosuspend, are none of its
// settings. The error is that of a device without directory, and matches
// fs.ErrNotExist.
func (s Sysfs) Snapshot(ctx context.Context, dev drivers.Device) ([]oplog.Op, error) {
	if _, err := os.Stat(dev.Path); err != nil {
		return nil, fmt.Errorf("reading the settings of %s: %w", dev, err)
	}
	var ops []oplog.Op
	add := func(key, path string) {
		value, ok := read(path)
		if op := oplog.Set(key, value); ok && op.Validate() == nil {
			ops = append(ops, op)
		}
	}
	for _, name := range deviceSettings {
		add(sysfsPrefix+name, filepath.Join(dev.Path, name))
	}
	for _, module := range modules(dev) {
		dir := s.parameters(module)
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // most have none
			return nil, fmt.Errorf("reading the parameters of module %s: %w", module, err)
		}
		for _, e := range entries {
			add(paramPrefix+module+"."+e.Name(), filepath.Join(dir, e.Name()))
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(ops, func(a, b oplog.Op) int { return strings.Compare(a.Key, b.Key) })
	return ops, nil
}

// Replay makes the settings of dev those of ops, and returns, in the order of
// ops, the ones that it could not set, each with its reason. A setting that is
// as it must be is not written. The error is only that of ctx.
func (s Sysfs) Replay(ctx context.Context, dev drivers.Device, ops []oplog.Op) ([]oplog.Entry, error) {
	var deferred []oplog.Entry
	for _, op := range ops {
		if err := ctx.Err(); err != nil {
			return deferred, err
		}
		if err := s.set(dev, op); err != nil {
			deferred = append(deferred, oplog.Entry{Op: op, Deferred: err.Error()})
		}
	}
	return deferred, nil
}

// set makes one setting what op says. Its error is a reason for people.
func (s Sysfs) set(dev drivers.Device, op oplog.Op) error {
	path, err := s.path(dev, op)
	if err != nil {
		return err
	}
	have, ok := read(path)
	switch {
	case !ok:
		return errors.New("the device has no such setting")
	case have == op.Value:
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return reason(err)
	}
	if info.Mode().Perm()&0o222 == 0 {
		return fmt.Errorf("it is %s and can be set only when the module is loaded", have)
	}
	if err := write(path, op.Value); err != nil {
		return fmt.Errorf("it is %s: %w", have, reason(err))
	}
	// A driver may take a value and use another.
	if have, _ := read(path); have != op.Value {
		return fmt.Errorf("it is %s after it was set", have)
	}
	return nil
}

// path returns the file of the setting that op is about, or the reason why dev
// has none. An op comes from a log that a former process left: it names no file
// outside of those that Snapshot would read.
func (s Sysfs) path(dev drivers.Device, op oplog.Op) (string, error) {
	if name, ok := strings.CutPrefix(op.Key, sysfsPrefix); ok && slices.Contains(deviceSettings, name) {
		return filepath.Join(dev.Path, name), nil
	}
	if name, ok := strings.CutPrefix(op.Key, paramPrefix); ok {
		module, param, _ := strings.Cut(name, ".")
		if !slices.Contains(modules(dev), module) {
			return "", errOtherModule
		}
		if !strings.Contains(param, "/") && param != "" && param != "." && param != ".." {
			return filepath.Join(s.parameters(module), param), nil
		}
	}
	return "", errors.New("not a setting that can be replayed")
}

var errOtherModule = errors.New("the module does not drive this device")

func (s Sysfs) parameters(module string) string {
	root := s.Root
	if root == "" {
		root = "/sys"
	}
	return filepath.Join(root, "module", module, "parameters")
}

// modules returns the modules that drive dev and what is below it, sorted.
func modules(dev drivers.Device) []string {
	var names []string
	var walk func(drivers.Device)
	walk = func(d drivers.Device) {
		if d.Module != "" && d.Module == filepath.Base(d.Module) {
			names = append(names, d.Module)
		}
		for _, c := range d.Children {
			walk(c)
		}
	}
	walk(dev)
	slices.Sort(names)
	return slices.Compact(names)
}

// read returns the value in an attribute without its final newline; ok is
// false if it cannot be read or has no read permission, which root would not
// notice.
func read(path string) (value string, ok bool) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o444 == 0 {
		return "", false
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) > maxAttribute {
		return "", false
	}
	return strings.TrimSuffix(string(b), "\n"), true
}

// write writes an attribute in one call, as sysfs wants it, and never makes a
// file.
func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// reason takes the path out of an error: the key says what it is about.
func reason(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}
