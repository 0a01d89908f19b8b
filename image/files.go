// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/umbra-vm/umbra/image/initramfs"
)

// fileSpec is one entry of a files list.
type fileSpec struct {
	key    string // of the entry, for errors
	source string // absolute path on the host
	dest   string // absolute path in the guest
}

// files reads every files list of the description. Sources need not exist.
func (c *Config) files() ([]fileSpec, error) {
	var specs []fileSpec
	var errs []error
	read := func(list string, entries []string) {
		for i, entry := range entries {
			key := fmt.Sprintf("%s[%d]", list, i)
			source, dest, ok := strings.Cut(entry, ":")
			switch {
			case !ok || source == "" || dest == "":
				errs = append(errs, c.fail(key, "%q: want source:path-in-the-guest", entry))
				continue
			case !path.IsAbs(dest):
				errs = append(errs, c.fail(key, "%q: the path in the guest must be absolute", dest))
				continue
			}
			if strings.HasSuffix(dest, "/") {
				dest = path.Join(dest, filepath.Base(source))
			}
			specs = append(specs, fileSpec{key, c.path(source), path.Clean(dest)})
		}
	}
	read("image.files", c.Image.Files)
	for i, s := range c.Services {
		read(fmt.Sprintf("service[%d].files", i), s.Files)
	}
	return specs, errors.Join(errs...)
}

// addFiles adds the user's files to the archive, and the programs that were made of
// his packages.
func (c *Config) addFiles(a *initramfs.Archive, programs []fileSpec) error {
	specs, err := c.files()
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range slices.Concat(specs, programs) {
		if err := a.AddFile(f.source, f.dest); err != nil {
			errs = append(errs, c.fail(f.key, "%w", err))
		}
	}
	return errors.Join(errs...)
}

// checkPrograms finds services that could not start: the guest would tell so
// only after it has booted, and exec(2) says "no such file" of a program that is
// there when it is its dynamic linker that is not.
func (c *Config) checkPrograms(a *initramfs.Archive) error {
	var errs []error
	for i, s := range c.Services {
		if err := checkProgram(a, s.Exec[0]); err != nil {
			errs = append(errs, c.fail(fmt.Sprintf("service[%d].exec", i), "%w", err))
		}
	}
	return errors.Join(errs...)
}

func checkProgram(a *initramfs.Archive, name string) error {
	if !a.Contains(name) {
		return fmt.Errorf("%s is not in the image: add it to files", name)
	}
	source, ok := a.Source(name)
	if !ok {
		return nil // our own
	}
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if info.IsDir() || info.Mode()&0o100 == 0 {
		return fmt.Errorf("%s: %s is not executable", name, source)
	}
	interpreter, err := interpreter(source)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if interpreter != "" && !a.Contains(interpreter) {
		return fmt.Errorf("%s needs %s, which is not in the image: link it statically (CGO_ENABLED=0) or add what it needs to files", name, interpreter)
	}
	return nil
}

// interpreter returns what the kernel starts to run the program: the dynamic
// linker of an ELF file, the program after #! of a script, nothing for a static
// program.
func interpreter(program string) (string, error) {
	f, err := os.Open(program)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, 256) // BINPRM_BUF_SIZE
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if script, ok := bytes.CutPrefix(head[:n], []byte("#!")); ok {
		line, _, _ := bytes.Cut(script, []byte("\n"))
		if words := strings.Fields(string(line)); len(words) > 0 {
			return words[0], nil
		}
		return "", errors.New("a script without interpreter")
	}
	e, err := elf.NewFile(f)
	if err != nil {
		return "", fmt.Errorf("neither a program nor a script: %w", err)
	}
	if e.Machine != elf.EM_X86_64 && e.Machine != elf.EM_386 {
		return "", fmt.Errorf("a program for %v, not x86-64", e.Machine)
	}
	for _, p := range e.Progs {
		if p.Type == elf.PT_INTERP {
			name, err := io.ReadAll(p.Open())
			return string(bytes.TrimRight(name, "\x00")), err
		}
	}
	return "", nil
}
