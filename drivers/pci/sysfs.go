// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package pci

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/umbra-vm/umbra/drivers/internal/sysfs"
)

// ReadConfig reads the configuration space of the function whose sysfs
// directory is dir, from the hardware. The kernel holds such reads back while
// it resets the function (drivers/pci/access.c, pci_wait_cfg), so the transient
// states of a reset are not seen.
func ReadConfig(dir string) (Config, error) {
	b, err := readConfig(dir, 0)
	if err != nil {
		return Config{}, err
	}
	return ParseConfig(b)
}

// ReadSlot reads what the port whose sysfs directory is dir says of its slot, from
// the hardware. ok is false if it has none.
func ReadSlot(dir string) (s Slot, ok bool, err error) {
	b, err := readConfig(dir, expressRegisters)
	if err != nil {
		return Slot{}, false, err
	}
	s, ok = ParseSlot(b)
	return s, ok, nil
}

// physicalFunction is the link of a virtual function to the one that it belongs to.
const physicalFunction = "physfn"

// readConfig reads the header, the list of capabilities, and the first bytes of that of
// PCI Express, as many as express says. The rest is zero: every four bytes are an access
// that leaves the virtual machine, and each device is read every second. It returns the
// header only if more may not be read, or nothing is there.
func readConfig(dir string, express int) ([]byte, error) {
	f, err := os.Open(filepath.Join(dir, "config"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, ConfigSize)
	read := func(from, to int) error {
		_, err := f.ReadAt(b[from:min(to, ConfigSize)], int64(from))
		return err
	}
	err = read(0, offCommand)
	if err == nil && allOnes(b[:offCommand]) {
		// That may be a virtual function (SR-IOV), whose ids read as ones.
		if _, err := os.Lstat(filepath.Join(dir, physicalFunction)); err != nil {
			return bytes.Repeat([]byte{0xff}, HeaderSize), nil
		}
	}
	if err == nil {
		err = read(offCommand, HeaderSize)
	}
	if errors.Is(err, io.EOF) {
		return nil, ErrShort
	}
	if err != nil || allOnes(b[:HeaderSize]) {
		return b[:HeaderSize], err
	}
	for id, pos := range capabilities(b, func(pos int) bool {
		err = read(pos, pos+4)
		return err == nil
	}) {
		if id == capExpress && express > 4 {
			if err = read(pos+4, pos+express); err != nil {
				break
			}
		}
	}
	if errors.Is(err, io.EOF) {
		return b[:HeaderSize], nil
	}
	return b, err
}

// ReadIDs reads the ids and the 24-bit class code that the kernel keeps of the function
// whose sysfs directory is dir. modalias is what its file of that name says, which has
// nearly all of it, or "" if that has not been read. An id a file takes twice as long, and
// every recovery waits for it.
func ReadIDs(dir, modalias string) (ids IDs, class uint32, err error) {
	if modalias == "" {
		if modalias, err = sysfs.Read(dir, "modalias"); err != nil {
			return IDs{}, 0, err
		}
	}
	ids, class, ok := ParseModalias(modalias)
	if !ok {
		return IDs{}, 0, fmt.Errorf("%s: %q is not of a PCI function", filepath.Join(dir, "modalias"), modalias)
	}
	rev, err := readNumber(dir, "revision", 8)
	ids.Revision = uint8(rev)
	return ids, class, err
}

// ReadClass reads the 24-bit class code that the kernel keeps.
func ReadClass(dir string) (uint32, error) {
	v, err := readNumber(dir, "class", 24)
	return uint32(v), err
}

// ReadBelief reads what the kernel believes of the function whose sysfs
// directory is dir.
func ReadBelief(dir string) (Belief, error) {
	var b Belief
	var err error
	if b.IDs, _, err = ReadIDs(dir, ""); err != nil {
		return Belief{}, err
	}
	resources, err := sysfs.Read(dir, "resource")
	if err != nil {
		return Belief{}, err
	}
	if b.Resources, err = ParseResources(strings.NewReader(resources)); err != nil {
		return Belief{}, fmt.Errorf("%s: %w", filepath.Join(dir, "resource"), err)
	}
	enable, err := sysfs.Read(dir, "enable")
	if err != nil {
		return Belief{}, err
	}
	b.Enabled = enable != "0"
	// The rest is there only where it applies.
	if irqs, err := os.ReadDir(filepath.Join(dir, "msi_irqs")); err == nil {
		b.MSI = len(irqs) > 0
	}
	if _, err := os.Lstat(filepath.Join(dir, physicalFunction)); err == nil {
		b.Virtual = true
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Belief{}, err
	}
	if state, err := sysfs.Read(dir, "power_state"); err == nil {
		switch state {
		case "D1", "D2", "D3hot", "D3cold":
			b.Suspended = true
		}
	}
	return b, nil
}

// ParseResources reads the ranges of the six BARs, the first lines of the sysfs
// file "resource": "0xSTART 0xEND 0xFLAGS". The lines of ROM, bridge windows and
// virtual functions after them are left unread.
func ParseResources(r io.Reader) ([6]Resource, error) {
	var res [6]Resource
	s := bufio.NewScanner(r)
	for i := range res {
		if !s.Scan() {
			if err := s.Err(); err != nil {
				return res, fmt.Errorf("resource %d: %w", i, err)
			}
			return res, fmt.Errorf("resource %d: %w", i, io.ErrUnexpectedEOF)
		}
		f := strings.Fields(s.Text())
		if len(f) != 3 {
			return res, fmt.Errorf("resource %d: want start, end and flags, got %q", i, s.Text())
		}
		for j, to := range []*uint64{&res[i].Start, &res[i].End, &res[i].Flags} {
			v, err := strconv.ParseUint(f[j], 0, 64)
			if err != nil {
				return res, fmt.Errorf("resource %d: %w", i, err)
			}
			*to = v
		}
	}
	return res, nil
}

func readNumber(dir, name string, bits int) (uint64, error) {
	text, err := sysfs.Read(dir, name)
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseUint(text, 0, bits)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", filepath.Join(dir, name), err)
	}
	return v, nil
}
