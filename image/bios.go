// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/umbra-vm/umbra/image/media"
)

// What a BIOS starts, and the Debian packages it is in.
const (
	isolinuxPackage = "isolinux"
	isolinuxFile    = "/usr/lib/ISOLINUX/isolinux.bin"
	isohybridFile   = "/usr/lib/ISOLINUX/isohdpfx.bin"

	syslinuxPackage = "syslinux-common"
	syslinuxFile    = "/usr/lib/syslinux/modules/bios/ldlinux.c32"
)

// The files of a medium that a BIOS boots from.
const (
	biosKernel = "VMLINUZ"
	biosInitrd = "INITRD.IMG"
	biosModule = "LDLINUX.C32"
	biosConfig = "ISOLINUX.CFG"
)

// biosLoader is the loader on this machine.
type biosLoader struct {
	pkgs                []PackageManifest
	loader, mbr, module []byte
}

func (c *Config) validateBIOS() (errs []error) {
	switch {
	case !c.Image.BIOS:
	case c.Update.Enabled():
		errs = append(errs, c.fail("image.bios", "a BIOS would start one version for ever: slots, see [update], are for UEFI"))
	case !c.hasDisk() && !slices.Contains(c.Image.Outputs, ISO):
		errs = append(errs, c.fail("image.bios", "nothing that a BIOS boots from: image.outputs has none of %s, %s and %s", Disk, QCOW2, ISO))
	}
	return errs
}

// fetchBIOSLoader gets hold of the loader, if the description wants it.
func (c *Config) fetchBIOSLoader(ctx context.Context, opts Options) (*biosLoader, error) {
	if !c.Image.BIOS {
		return nil, nil
	}
	isolinux, program, err := fetchFiles(ctx, opts, isolinuxPackage, isolinuxFile, isohybridFile)
	if err != nil {
		return nil, err
	}
	syslinux, modules, err := fetchFiles(ctx, opts, syslinuxPackage, syslinuxFile)
	if err != nil {
		return nil, err
	}
	if isolinux.Version != syslinux.Version {
		// The loader refuses modules of another version, on the console of the guest.
		return nil, fmt.Errorf("package %s is version %s, but %s is %s", isolinuxPackage, isolinux.Version, syslinuxPackage, syslinux.Version)
	}
	return &biosLoader{
		pkgs:   []PackageManifest{isolinux, syslinux},
		loader: program[isolinuxFile], mbr: program[isohybridFile], module: modules[syslinuxFile],
	}, nil
}

// bios is what a BIOS starts from the media, nil if nothing; dir has kernel and initramfs.
func (c *Config) bios(p *parts, dir string) *media.BIOS {
	if p.bios == nil {
		return nil
	}
	return &media.BIOS{
		Loader: p.bios.loader, MBR: p.bios.mbr,
		Files: []media.File{
			{Path: biosKernel, Source: filepath.Join(dir, KernelFile)},
			{Path: biosInitrd, Source: filepath.Join(dir, c.initramfsFile())},
		},
		Texts: map[string]string{biosModule: string(p.bios.module), biosConfig: c.isolinuxConfig()},
	}
}

// isolinuxConfig has the loader start the image at once, and nobody change its command
// line; what it has to say comes on the serial line, too.
func (c *Config) isolinuxConfig() string {
	return strings.Join([]string{
		"SERIAL 0 115200",
		"PROMPT 0", "NOESCAPE 1", "ALLOWOPTIONS 0",
		"DEFAULT umbra",
		"LABEL umbra",
		"LINUX /" + biosKernel,
		"INITRD /" + biosInitrd,
		"APPEND " + c.cmdline(),
	}, "\n") + "\n"
}
