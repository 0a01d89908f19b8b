// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package kernel

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/umbra-vm/umbra/drivers/modinfo"
	"pault.ag/go/debian/deb"
)

// builtinLists are the lists that a kernel brings and depmod(8) does not make:
// they describe the kernel and its link order, not the modules.
var builtinLists = map[string]bool{"modules.builtin": true, "modules.builtin.modinfo": true, "modules.order": true}

// moduleSuffix returns .ko, .ko.xz, .ko.zst or .ko.gz if name ends so.
func moduleSuffix(name string) string {
	for _, s := range []string{".ko", ".ko.xz", ".ko.zst", ".ko.gz"} {
		if strings.HasSuffix(name, s) {
			return s
		}
	}
	return ""
}

// checkModules makes sure that the modules below dir are of the kernel's
// release: the kernel refuses others one by one, when it is too late. One
// module speaks for all, as a release's modules are built together.
func checkModules(dir, release string) error {
	set, err := modinfo.Open(dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBroken, err)
	}
	all := set.Modules()
	if len(all) == 0 {
		return fmt.Errorf("%w: no modules in %s", ErrNoKernel, dir)
	}
	info, err := set.Info(all[0].Name)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBroken, err)
	}
	// vermagic is the release and then words (include/linux/vermagic.h).
	if of, _, _ := strings.Cut(info.Value("vermagic"), " "); of != release {
		return fmt.Errorf("%w: the kernel is %s, %s is for %s", ErrMismatch, release, all[0].Path, of)
	}
	return nil
}

// CopyModules copies modules, given by their paths below the kernel's modules
// directory, to dir, uncompressed, together with the lists of what is built into
// the kernel: dir becomes a modules directory that has only these.
func (k *Kernel) CopyModules(dir string, modules []string) error {
	for name := range builtinLists {
		err := copyFile(filepath.Join(k.Modules, name), filepath.Join(dir, name), "")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("copy modules: %w", err)
		}
	}
	for _, name := range modules {
		packed := strings.TrimPrefix(moduleSuffix(name), ".ko")
		to := filepath.Join(dir, strings.TrimSuffix(name, packed))
		if err := copyFile(filepath.Join(k.Modules, name), to, packed); err != nil {
			return fmt.Errorf("copy modules: %s: %w", path.Base(name), err)
		}
	}
	return nil
}

// Signed reports whether the file of a module, which is not compressed, carries a
// signature. Whose it is, and whether it is right, is for the kernel to say.
func Signed(module string) (bool, error) {
	f, err := os.Open(module)
	if err != nil {
		return false, err
	}
	defer f.Close()
	end := make([]byte, len(modinfo.SignatureMark))
	at, err := f.Seek(-int64(len(end)), io.SeekEnd)
	if err != nil {
		return false, nil // shorter than a mark
	}
	if _, err := f.ReadAt(end, at); err != nil {
		return false, err
	}
	return string(end) == modinfo.SignatureMark, nil
}

// copyFile copies a file; what is compressed by the rule of the suffix packed
// is unpacked.
func copyFile(from, to, packed string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	if packed == "" {
		return writeFile(to, f)
	}
	r, err := deb.DecompressorFor(packed)(f)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBroken, err)
	}
	defer r.Close()
	return writeFile(to, r)
}

func writeFile(name string, content io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}
