// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xenlab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/umbra-vm/umbra/image"
)

// What "xl create" gives a guest comes through QEMU's fw_cfg, byte by byte and each a
// way out of the guest: under an emulator under an emulator that takes minutes. So all
// but the first sectors of the kernel, which say where the rest is and jump to it, is
// laid into the guest's memory by QEMU's generic loader, as a boot loader would (Linux
// Documentation/x86/boot.rst). The addresses are the ones that the kernel asks for, and
// one far enough behind it.
const (
	kernelAt    = 16 << 20
	initramfsAt = 128 << 20
)

// Fields of the kernel's header (boot.rst, "Details of Header Fields").
const (
	setupSects    = 0x1f1
	headerMagic   = 0x202
	entry         = 0x200
	code32Start   = 0x214
	ramdiskImage  = 0x218
	ramdiskSize   = 0x21c
	relocatable   = 0x234
	prefAddress   = 0x258
	initSize      = 0x260
	headerEnd     = 0x264
	sectorBytes   = 512
	defaultSetups = 4
)

// QEMU's boot ROM writes into ramdiskImage where it would put an initramfs, though it has
// none. So the kernel's first instructions (start_of_setup in arch/x86/boot/header.S),
// to which the two bytes at entry jump, go by way of some that write it again, in a
// sector that is added.
var (
	firstInstructions = []byte{
		0x8c, 0xd8, // mov %ds,%ax
		0x8e, 0xc0, // mov %ax,%es
		0xfc, //       cld
	}
	// movl $initramfsAt,ramdiskImage
	setRamdisk = []byte{0x66, 0xc7, 0x06, ramdiskImage & 0xff, ramdiskImage >> 8, 0, 0, 0, initramfsAt >> 24}
)

const (
	shortJump = 0xeb // by a signed byte
	nearJump  = 0xe9 // by two bytes
	nop       = 0x90
)

// ErrKernel says that a kernel cannot be laid into the memory of a guest.
var ErrKernel = errors.New("kernel cannot be loaded in parts")

// The files of a staged image in dom0.
const (
	imageDir        = "/image"
	setupFile       = imageDir + "/setup"
	kernelFile      = imageDir + "/kernel"
	initramfsFile   = imageDir + "/initramfs"
	wholeKernelFile = imageDir + "/vmlinuz" // of PV and PVH guests, which the toolstack loads
)

// Stage makes of a bundle what domains of this package boot from: the files for
// dom0.Options.Files, some of which it writes into dir. Errors match [ErrKernel].
func Stage(b *image.Bundle, dir string) (map[string]string, error) {
	initramfs, whole := filepath.Join(b.Dir, b.Initramfs), filepath.Join(b.Dir, image.KernelFile)
	kernel, err := os.ReadFile(whole)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(initramfs)
	if err != nil {
		return nil, err
	}
	if initramfsAt+info.Size() > int64(b.Machine.MemoryMB)<<20 {
		return nil, fmt.Errorf("%w: %d MiB of memory have no place for the initramfs", ErrKernel, b.Machine.MemoryMB)
	}
	setup, rest, err := split(kernel, uint32(info.Size()))
	if err != nil {
		return nil, err
	}
	files := map[string]string{initramfsFile: initramfs, wholeKernelFile: whole}
	for name, content := range map[string][]byte{setupFile: setup, kernelFile: rest} {
		files[name] = filepath.Join(dir, path.Base(name))
		if err := os.WriteFile(files[name], content, 0o644); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// split takes a bzImage apart: its first sectors, which go on at kernelAt with an
// initramfs of that size, and what has to be there.
func split(kernel []byte, initramfs uint32) (setup, rest []byte, err error) {
	if len(kernel) < headerEnd || string(kernel[headerMagic:headerMagic+4]) != "HdrS" {
		return nil, nil, fmt.Errorf("%w: it is no bzImage", ErrKernel)
	}
	n := int(kernel[setupSects])
	if n == 0 {
		n = defaultSetups
	}
	n = (n + 1) * sectorBytes
	end := kernelAt + uint64(binary.LittleEndian.Uint32(kernel[initSize:]))
	if kernel[relocatable] == 0 || binary.LittleEndian.Uint64(kernel[prefAddress:]) != kernelAt || end > initramfsAt || len(kernel) <= n {
		return nil, nil, fmt.Errorf("%w: it is not one for %d to %d MiB", ErrKernel, kernelAt>>20, initramfsAt>>20)
	}
	start := entry + 2 + int(int8(kernel[entry+1]))
	if kernel[entry] != shortJump || !bytes.HasPrefix(kernel[start:n], firstInstructions) {
		return nil, nil, fmt.Errorf("%w: it does not begin as expected", ErrKernel)
	}
	detour := slices.Concat(setRamdisk, firstInstructions)
	detour = append(detour, jump(n+len(detour), start+len(firstInstructions))...)
	setup = slices.Concat(kernel[:start], jump(start, n), []byte{nop, nop}, kernel[start+len(firstInstructions):n], detour)
	// QEMU wants something behind the setup.
	setup = append(setup, make([]byte, 2*sectorBytes-len(detour))...)
	setup[setupSects] = byte(n / sectorBytes)
	for at, value := range map[int]uint32{code32Start: kernelAt, ramdiskSize: initramfs} {
		binary.LittleEndian.PutUint32(setup[at:], value)
	}
	return setup, kernel[n:], nil
}

// jump is the instruction at one address that jumps to another.
func jump(at, to int) []byte {
	return binary.LittleEndian.AppendUint16([]byte{nearJump}, uint16(to-at-3))
}

// loaderArgs are the device model's arguments with which it lays the staged files into
// the memory of a new guest.
func loaderArgs() []string {
	var args []string
	for _, f := range []struct {
		name string
		at   int
	}{{kernelFile, kernelAt}, {initramfsFile, initramfsAt}} {
		args = append(args, "-device", fmt.Sprintf("loader,file=%s,addr=%#x,force-raw=on", f.name, f.at))
	}
	return args
}
