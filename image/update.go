// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"os"
	"path"
	"slices"
	"strings"

	"github.com/umbra-vm/umbra/image/media"
	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/config/slot"
)

// Update makes the disk one on which another version of the image can be put beside the
// one that runs, tried, and fallen back from. It is off without a version.
type Update struct {
	Version string `toml:"version"` // one to four numbers with dots between them

	// SlotMB is the room for a version in MiB. Default: that of this one, and half of it.
	SlotMB int `toml:"slot_mb"`

	Settle  int `toml:"settle_s"` // see config.Update
	Timeout int `toml:"timeout_s"`
}

// slots is how many versions the partition has room for: the one that runs, the one
// before it, and the one that is being written.
const slots = 3

// Enabled reports whether the disk has slots.
func (u Update) Enabled() bool { return u.Version != "" }

func (c *Config) validateUpdate() (errs []error) {
	u := c.Update
	if slices.ContainsFunc(strings.Fields(c.Image.Cmdline), func(w string) bool { return strings.HasPrefix(w, slot.Word+"=") }) {
		errs = append(errs, c.fail("image.cmdline", "%s= is for umbra build to say, see [update]", slot.Word))
	}
	switch {
	case !u.Enabled():
		if u != (Update{}) {
			errs = append(errs, c.fail("update.version", "missing"))
		}
		return errs
	case !slot.IsVersion(u.Version):
		errs = append(errs, c.fail("update.version", "%q: want one to four numbers with dots between them, such as 1.4.2", u.Version))
	case !c.hasDisk():
		errs = append(errs, c.fail("update.version", "nothing has slots: image.outputs has neither %s nor %s", Disk, QCOW2))
	}
	if u.SlotMB < 0 {
		errs = append(errs, c.fail("update.slot_mb", "%d is negative", u.SlotMB))
	}
	return errs
}

// slot is the version that is built.
func (c *Config) slot() slot.Slot { return slot.Slot{Image: c.Image.Name, Version: c.Update.Version} }

// guestUpdate is what the guest has to know.
func (u Update) guestUpdate() config.Update {
	return config.Update{Settle: u.Settle, Timeout: u.Timeout}
}

// uefiCmdline is the kernel command line of the unified kernel image. A guest that is not
// booted from it is not on a disk with slots.
func (c *Config) uefiCmdline() string {
	words := c.cmdline()
	if c.Update.Enabled() {
		words += " " + slot.Word + "=" + c.slot().String()
	}
	return words
}

// osRelease is what boot menus show, and by whose IMAGE_VERSION systemd-boot puts the
// versions of an image in order (os-release(5)).
func (c *Config) osRelease() string {
	lines := []string{
		"ID=umbra", "NAME=umbra", `PRETTY_NAME="umbra: ` + c.Image.Name + `"`, "VERSION_ID=" + Version(),
		"IMAGE_ID=" + c.Image.Name,
	}
	if c.Update.Enabled() {
		lines = append(lines, "IMAGE_VERSION="+c.Update.Version)
	}
	return strings.Join(lines, "\n") + "\n"
}

// esp is the partition of the disk: the unified kernel image alone, or with a loader, and
// room for others.
func (c *Config) esp(uki, loader string) (media.ESP, error) {
	if !c.Update.Enabled() {
		return media.Program(uki), nil
	}
	info, err := os.Stat(uki)
	if err != nil {
		return media.ESP{}, err
	}
	room := int64(c.Update.SlotMB) << 20
	switch {
	case room == 0:
		room = info.Size() + info.Size()/2
	case room < info.Size():
		return media.ESP{}, c.fail("update.slot_mb", "%d: this version alone has %d MiB", c.Update.SlotMB, info.Size()>>20+1)
	}
	return media.ESP{
		Name: slot.Partition,
		Files: []media.File{
			{Path: media.BootFile, Source: loader},
			{Path: path.Join("/", slot.Dir, c.slot().File()), Source: uki},
		},
		Room: slots*room - info.Size(),
	}, nil
}
