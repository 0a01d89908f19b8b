// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/umbra-vm/umbra/image/apt"
	"github.com/umbra-vm/umbra/image/deb"
	"github.com/umbra-vm/umbra/image/internal/digest"
	"github.com/umbra-vm/umbra/image/media"
	"github.com/umbra-vm/umbra/image/qcow2"
	"github.com/umbra-vm/umbra/image/uki"
)

// Output names a form of the image beside kernel and initramfs, which are always
// written.
type Output string

// The outputs. All of them hold the unified kernel image.
const (
	UKI   Output = "uki"   // NAME.efi, a program for UEFI firmware
	Disk  Output = "disk"  // NAME.raw, a disk that starts it
	QCOW2 Output = "qcow2" // NAME.qcow2, that disk in QEMU's format
	ISO   Output = "iso"   // NAME.iso, a CD that starts it
)

var outputs = []Output{UKI, Disk, QCOW2, ISO}

// File is the name of the output's file in the bundle of an image of that name.
func (o Output) File(name string) string {
	switch o {
	case UKI:
		return name + ".efi"
	case Disk:
		return name + ".raw"
	}
	return name + "." + string(o)
}

// Words in image.sign for the files that the command reads and writes.
const (
	signIn  = "{in}"
	signOut = "{out}"
)

// ErrSign: the command that was to sign the image did not.
var ErrSign = errors.New("not signed")

func (c *Config) validateOutputs() (errs []error) {
	for i, o := range c.Image.Outputs {
		if !slices.Contains(outputs, o) {
			errs = append(errs, c.fail(fmt.Sprintf("image.outputs[%d]", i), "%q: want some of %v", o, outputs))
		}
	}
	errs = append(errs, c.validateBIOS()...)
	errs = append(errs, c.validateDataPartition()...)
	if len(c.Image.Sign) == 0 {
		return errs
	}
	all := strings.Join(c.Image.Sign[1:], " ")
	switch {
	case len(c.Image.Outputs) == 0:
		errs = append(errs, c.fail("image.sign", "nothing to sign: image.outputs is empty"))
	case !strings.Contains(all, signIn) || !strings.Contains(all, signOut):
		errs = append(errs, c.fail("image.sign", "%q: want a command with %s for what it signs and %s for what it writes",
			c.Image.Sign, signIn, signOut))
	}
	return errs
}

// The UEFI stub, systemd-boot, and the Debian package they are in.
const (
	stubPackage = "systemd-boot-efi"
	stubFile    = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
	loaderFile  = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
)

// stub is the UEFI stub on this machine.
type stub struct {
	pkg     PackageManifest
	program []byte
	loader  []byte // systemd-boot
}

// fetchStub gets hold of the stub, and the loader, if there is an output that needs them.
func (c *Config) fetchStub(ctx context.Context, opts Options) (*stub, error) {
	if len(c.Image.Outputs) == 0 {
		return nil, nil
	}
	wanted := []string{stubFile}
	if c.Update.Enabled() {
		wanted = append(wanted, loaderFile)
	}
	pkg, files, err := fetchFiles(ctx, opts, stubPackage, wanted...)
	if err != nil {
		return nil, err
	}
	return &stub{pkg: pkg, program: files[stubFile], loader: files[loaderFile]}, nil
}

// fetchFiles returns what is in files of a package, by their names.
func fetchFiles(ctx context.Context, opts Options, name string, wanted ...string) (m PackageManifest, files map[string][]byte, err error) {
	client := apt.Client{CacheDir: opts.CacheDir, Progress: opts.Progress}
	pkg, err := client.Show(ctx, name)
	if err != nil {
		return m, nil, fmt.Errorf("package %s: %w", name, err)
	}
	local, err := client.Fetch(ctx, pkg)
	if err != nil {
		return m, nil, fmt.Errorf("package %s: %w", name, err)
	}
	files = make(map[string][]byte)
	_, err = deb.Read(ctx, local[0], func(h *tar.Header, content io.Reader) (err error) {
		if at := path.Clean("/" + h.Name); slices.Contains(wanted, at) {
			files[at], err = io.ReadAll(content)
		}
		return err
	})
	for _, at := range wanted {
		if err == nil && files[at] == nil {
			err = fmt.Errorf("it has no %s", at)
		}
	}
	if err != nil {
		return m, nil, fmt.Errorf("package %s %s: %w", name, pkg.Version, err)
	}
	return PackageManifest{Name: pkg.Name, Version: pkg.Version, SHA256: pkg.SHA256}, files, nil
}

// writeOutputs writes the outputs of the description into dir, where kernel and
// initramfs are, and returns the names of their files.
func (c *Config) writeOutputs(ctx context.Context, p *parts, dir string, opts Options) (names []string, err error) {
	if len(c.Image.Outputs) == 0 {
		return nil, nil
	}
	// What is not asked for is made all the same where another output is made of it.
	place := func(o Output) string {
		if slices.Contains(c.Image.Outputs, o) {
			return filepath.Join(dir, o.File(c.Image.Name))
		}
		return filepath.Join(p.work, o.File("output"))
	}
	wants := func(some ...Output) bool {
		return slices.ContainsFunc(some, func(o Output) bool { return slices.Contains(c.Image.Outputs, o) })
	}
	if err := c.writeUKI(ctx, p, dir, place(UKI), opts); err != nil {
		return nil, err
	}
	id, _, err := digest.SHA256(place(UKI))
	if err != nil {
		return nil, err
	}
	for _, step := range []struct {
		made Output
		of   []Output // that are made of it
		make func() error
	}{
		{Disk, []Output{Disk, QCOW2}, func() error { return c.writeDisk(ctx, p, dir, place(Disk), place(UKI), id, opts) }},
		{QCOW2, []Output{QCOW2}, func() error { return qcow2.Convert(place(QCOW2), place(Disk)) }},
		{ISO, []Output{ISO}, func() error { return media.WriteISO(place(ISO), place(UKI), c.bios(p, dir), id) }},
	} {
		if !wants(step.of...) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		opts.Progress("making " + step.made.File(c.Image.Name))
		if err := step.make(); err != nil {
			return nil, err
		}
	}
	for _, o := range outputs {
		if wants(o) {
			names = append(names, o.File(c.Image.Name))
		}
	}
	return names, nil
}

// writeDisk writes the disk of the unified kernel image to the file dst. The id says what
// that is; dir has kernel and initramfs.
func (c *Config) writeDisk(ctx context.Context, p *parts, dir, dst, uki, id string, opts Options) error {
	loader, err := c.writeLoader(ctx, p, opts)
	if err != nil {
		return err
	}
	esp, err := c.esp(uki, loader)
	if err != nil {
		return err
	}
	data, err := c.dataPartition(ctx, p, id)
	if err != nil {
		return err
	}
	return media.WriteDisk(dst, esp, c.bios(p, dir), id, data...)
}

// writeUKI writes the unified kernel image, signed if the description says how.
func (c *Config) writeUKI(ctx context.Context, p *parts, dir, dst string, opts Options) error {
	opts.Progress("making " + UKI.File(c.Image.Name))
	unsigned := dst
	if len(c.Image.Sign) > 0 {
		unsigned = filepath.Join(p.work, "unsigned.efi")
	}
	err := uki.Image{
		Stub:      p.stub.program,
		OSRelease: c.osRelease(),
		Cmdline:   c.uefiCmdline(),
		Uname:     p.kernel.Release,
		Kernel:    filepath.Join(dir, KernelFile),
		Initrd:    filepath.Join(dir, c.initramfsFile()),
	}.Write(unsigned)
	if err != nil || unsigned == dst {
		return err
	}
	opts.Progress("signing " + UKI.File(c.Image.Name))
	return c.sign(ctx, unsigned, dst)
}

// writeLoader writes systemd-boot, signed as the unified kernel image is, and returns its
// place; without slots there is none.
func (c *Config) writeLoader(ctx context.Context, p *parts, opts Options) (name string, err error) {
	if !c.Update.Enabled() {
		return "", nil
	}
	name = filepath.Join(p.work, "loader.efi")
	if err := os.WriteFile(name, p.stub.loader, 0o644); err != nil || len(c.Image.Sign) == 0 {
		return name, err
	}
	opts.Progress("signing systemd-boot")
	signed := filepath.Join(p.work, "loader.signed.efi")
	return signed, c.sign(ctx, name, signed)
}

// sign has the command of the description sign the file in, in the description's
// directory.
func (c *Config) sign(ctx context.Context, in, out string) error {
	replacer := strings.NewReplacer(signIn, in, signOut, out)
	var words []string
	for _, word := range c.Image.Sign {
		words = append(words, replacer.Replace(word))
	}
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Dir = c.dir
	said, err := cmd.CombinedOutput()
	if err == nil {
		err = uki.CheckSigned(out)
	}
	if err != nil {
		return c.fail("image.sign", "%w: %s: %w%s", ErrSign, words[0], err, strings.TrimRight("\n"+string(said), "\n"))
	}
	return nil
}
