// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/drivers/xenstore"
	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/config/overlay"
)

// Names of documents. Whatever is right below them is one, in the order of the names.
const (
	// fwCfgDir is below QEMU's opt/, which is for users (docs/specs/fw_cfg.rst of
	// QEMU asks for a reversed domain name).
	fwCfgDir = "opt/org.umbra"
	// storeDir is relative to the guest's own directory of xenstore. vm-data is what
	// toolstacks pass on to guests.
	storeDir = "vm-data/umbra"
)

// Sources are the places of this machine that are looked at, the least important first.
// What is needed only for that is below dir.
func Sources(log *slog.Logger, image []byte, cmdline, dir string) []Source {
	load := func(context.Context, ...string) error { return errors.New("the image has no modules") }
	if tree, err := drivers.New(drivers.WithLogger(log)); err == nil {
		load = tree.LoadAsked
	}
	var modules []string
	if own, err := config.LoadBytes(image); err == nil { // else it is told when that is used
		modules = own.Drive
	}
	return []Source{
		Drive(modules, filepath.Join(dir, "drive"), load),
		Xenstore(xenstore.Open),
		FirmwareConfig("/sys", load),
		Cmdline(cmdline),
	}
}

// Cmdline is the document on a kernel command line.
func Cmdline(cmdline string) Source {
	return func(context.Context, *slog.Logger) ([]*overlay.Document, error) {
		text, err := config.CmdlineDocument(cmdline)
		if err != nil || text == nil {
			return nil, err
		}
		return parse([]found{{"kernel command line umbra.config", text}})
	}
}

// Loader loads those of the modules that are of use on this machine; [drivers.Tree.LoadAsked]
// does.
type Loader func(ctx context.Context, modules ...string) error

// The driver of QEMU's fw_cfg device, and the device as ACPI knows it
// (drivers/firmware/qemu_fw_cfg.c).
const (
	fwCfgModule = "qemu_fw_cfg"
	fwCfgDevice = "bus/acpi/devices/QEMU0002:00"
)

// FirmwareConfig are the documents that QEMU was given by its option -fw_cfg; sysfs is
// where that file system is mounted.
func FirmwareConfig(sysfs string, load Loader) Source {
	return func(ctx context.Context, log *slog.Logger) ([]*overlay.Document, error) {
		if _, err := os.Stat(filepath.Join(sysfs, fwCfgDevice)); err != nil {
			return nil, nil
		}
		if err := load(ctx, fwCfgModule); err != nil {
			log.Warn("what QEMU says by fw_cfg is not heard", "err", err)
			return nil, nil
		}
		return readEntries(filepath.Join(sysfs, "firmware/qemu_fw_cfg/by_name", fwCfgDir))
	}
}

// readEntries reads what the driver shows of fw_cfg's files: a directory for each, in
// which "raw" is its content (Documentation/ABI/testing/sysfs-firmware-qemu_fw_cfg).
func readEntries(dir string) ([]*overlay.Document, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("fw_cfg: %w", err)
	}
	var texts []found
	for _, e := range entries { // in the order of their names
		text, err := readFile(filepath.Join(dir, e.Name(), "raw"))
		if err != nil {
			return nil, fmt.Errorf("fw_cfg: %w", err)
		}
		texts = append(texts, found{"fw_cfg " + fwCfgDir + "/" + e.Name(), text})
	}
	return parse(texts)
}

// readFile reads a file, and of one that is too large for a document no more than
// shows that.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, overlay.MaxSize+1))
}

// Xenstore are the documents in the xenstore of a Xen guest.
func Xenstore(open func() (*xenstore.Conn, error)) Source {
	return func(context.Context, *slog.Logger) ([]*overlay.Document, error) {
		c, err := open()
		if errors.Is(err, xenstore.ErrNoXen) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		defer c.Close()
		names, err := c.List(storeDir)
		if errors.Is(err, xenstore.ErrNoEntry) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		slices.Sort(names)
		var texts []found
		for _, name := range names {
			path := storeDir + "/" + name
			value, err := c.Read(path)
			if err != nil {
				return nil, err
			}
			texts = append(texts, found{"xenstore " + path, []byte(value)})
		}
		return parse(texts)
	}
}
