// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package deploy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/init/config/overlay"
)

// Drive is the document on a volume: NoCloud's, or an OpenStack config drive. It loads
// modules first, which are those of controllers, disks and file systems.
func Drive(modules []string, mountPoint string, load Loader) Source {
	return func(ctx context.Context, log *slog.Logger) ([]*overlay.Document, error) {
		if len(modules) == 0 {
			return nil, nil
		}
		if err := load(ctx, modules...); err != nil {
			log.Warn("a volume with configuration may not be found", "err", err)
		}
		return readDrive("/sys/class/block", "/dev", func(dev string, v volume, read func(dir string) error) error {
			return mounted(dev, v, mountPoint, read)
		})
	}
}

// readDrive looks for a volume among the block devices that class lists, and reads it
// where mount makes it appear.
func readDrive(class, devices string, mount func(dev string, v volume, read func(dir string) error) error) ([]*overlay.Document, error) {
	entries, err := os.ReadDir(class)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("volume with configuration: %w", err)
	}
	var name string
	var is volume
	for _, e := range entries {
		v, ok := probe(filepath.Join(devices, e.Name()))
		if !ok || v.label != labelNoCloud && v.label != labelConfigDrive {
			continue
		}
		if name != "" {
			return nil, fmt.Errorf("volume with configuration: %s (%s) and %s (%s): want one", name, is.label, e.Name(), v.label)
		}
		name, is = e.Name(), v
	}
	if name == "" {
		return nil, nil
	}
	source := fmt.Sprintf("volume %s on %s", is.label, name)
	var docs []*overlay.Document
	err = mount(filepath.Join(devices, name), is, func(dir string) (err error) {
		docs, err = readVolume(source, is, dir)
		return err
	})
	return docs, err
}

func probe(dev string) (volume, bool) {
	f, err := os.OpenFile(dev, os.O_RDONLY|unix.O_NONBLOCK, 0) // a drive may have no medium
	if err != nil {
		return volume{}, false
	}
	defer f.Close()
	return identify(f)
}

// mounted calls read while the volume is mounted.
func mounted(dev string, v volume, dir string, read func(dir string) error) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("volume %s: %w", v.label, err)
	}
	defer os.Remove(dir)
	if err := unix.Mount(dev, dir, v.fsType, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("volume %s: mount %s as %s: %w", v.label, dev, v.fsType, err)
	}
	err := read(dir)
	if uerr := unix.Unmount(dir, 0); uerr != nil {
		err = errors.Join(err, fmt.Errorf("volume %s: unmount %s: %w", v.label, dev, uerr))
	}
	return err
}

// A part is a file of a volume, and what reads it; nil for one that would have to be
// understood, and is not.
type part struct {
	file string
	read func(source string, text []byte) ([]*overlay.Document, error)
}

// parts are the files of a volume, the least important first.
var parts = map[string][]part{
	labelNoCloud: {
		{"meta-data", metaData}, {"vendor-data", nil}, {"network-config", nil}, {"user-data", userData},
	},
	labelConfigDrive: {
		{"openstack/latest/meta_data.json", openStack}, {"openstack/latest/user_data", userData},
	},
}

func readVolume(source string, v volume, dir string) ([]*overlay.Document, error) {
	var docs []*overlay.Document
	var errs []error
	for _, p := range parts[v.label] {
		text, err := readFile(filepath.Join(dir, p.file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", source, err))
			continue
		}
		name := source + ": " + p.file
		if p.read == nil {
			if strings.TrimSpace(string(text)) != "" {
				errs = append(errs, &overlay.Error{Source: name, Err: errors.New("is not understood: say it in user-data")})
			}
			continue
		}
		found, err := p.read(name, text)
		docs, errs = append(docs, found...), append(errs, err)
	}
	return docs, errors.Join(errs...)
}
