// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package dom0

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// ErrNoFile says that no package has a file that dom0 takes, or a library that one of
// its programs needs.
var ErrNoFile = errors.New("no package of packages.txt has the file")

// A tree is the files of unpacked packages: where each lies on this machine, by its
// path in dom0. Directories that Debian 12 has merged into /usr are.
type tree map[string]string

// add adds the files of a package that is unpacked in dir.
func (t tree) add(dir string) error {
	return filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		t[merged("/"+filepath.ToSlash(name))] = file
		return nil
	})
}

// replace takes the files in dir for those that the tree has. Errors match [ErrNoFile]:
// dir is empty, or has a file that takes no other's place.
func (t tree) replace(dir string) error {
	over := make(tree)
	if err := over.add(dir); err != nil {
		return err
	}
	if len(over) == 0 {
		return fmt.Errorf("%w: %s is empty", ErrNoFile, dir)
	}
	for name, file := range over {
		if _, ok := t[name]; !ok {
			return fmt.Errorf("%w: %s, which is in %s", ErrNoFile, name, dir)
		}
		t[name] = file
	}
	return nil
}

func merged(name string) string {
	for _, top := range []string{"/bin/", "/sbin/", "/lib/"} {
		if strings.HasPrefix(name, top) {
			return "/usr" + name
		}
	}
	return name
}

// libraries returns the paths of every library that the programs among names, and
// what they load, need. Errors match [ErrNoFile].
func (t tree) libraries(names, loaded []string) ([]string, error) {
	var found []string
	var need func(by string, sonames []string) error
	need = func(by string, sonames []string) error {
		for _, soname := range sonames {
			name := path.Join(libDir, soname)
			if soname == path.Base(linker) || slices.Contains(found, name) {
				continue
			}
			if _, ok := t[name]; !ok {
				return fmt.Errorf("%w: %s, for %s", ErrNoFile, soname, by)
			}
			found = append(found, name)
			next, err := imported(t[name])
			if err != nil {
				return err
			}
			if err := need(name, next); err != nil {
				return err
			}
		}
		return nil
	}
	if err := need("programs at run time", loaded); err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, ok := t[name]; !ok {
			return nil, fmt.Errorf("%w: %s", ErrNoFile, name)
		}
		sonames, err := imported(t[name])
		if err != nil {
			return nil, err
		}
		if err := need(name, sonames); err != nil {
			return nil, err
		}
	}
	slices.Sort(found)
	return found, nil
}

// imported returns the libraries that an ELF file names; none of another file.
func imported(file string) ([]string, error) {
	f, err := elf.Open(file)
	var format *elf.FormatError
	if errors.As(err, &format) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ImportedLibraries()
}
