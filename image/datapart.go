// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/google/uuid"

	"github.com/umbra-vm/umbra/image/media"
	"github.com/umbra-vm/umbra/init/config/slot"
)

// mkfs makes the file system of a partition for data. It is where users' shells seldom look.
const mkfs = "/sbin/mkfs.ext4"

// mkfsTime is when it is made, 1980-01-01, as all else on the disk is.
const mkfsTime = 315532800

// maxPartitionName is what a GPT has room for, in units of UTF-16 (UEFI specification, 5.3.3).
const maxPartitionName = 36

// minDataMB is the least in which mkfs.ext4 makes a journal.
const minDataMB = 8

// hasDisk reports whether an output is a disk.
func (c *Config) hasDisk() bool {
	return slices.Contains(c.Image.Outputs, Disk) || slices.Contains(c.Image.Outputs, QCOW2)
}

func (c *Config) validateDataPartition() (errs []error) {
	switch size := c.Image.DataMB; {
	case c.Update.Enabled() && c.Data.Partition == slot.Partition:
		errs = append(errs, c.fail("data.partition", "%q is that of the versions", slot.Partition))
	case size == 0:
	case size < minDataMB:
		errs = append(errs, c.fail("image.data_mb", "%d: want at least %d", size, minDataMB))
	case c.Data.Partition == "":
		errs = append(errs, c.fail("image.data_mb", "the partition has no name: data.partition is missing"))
	case c.Data.Partition == slot.Partition || len(utf16.Encode([]rune(c.Data.Partition))) > maxPartitionName:
		errs = append(errs, c.fail("data.partition", "%q: want at most %d characters, and not %q, which another has",
			c.Data.Partition, maxPartitionName, slot.Partition))
	case !c.hasDisk():
		errs = append(errs, c.fail("image.data_mb", "no disk to have a partition: image.outputs has neither %s nor %s", Disk, QCOW2))
	}
	return errs
}

// dataPartition makes an empty file system for the disk, none if it is to have none. What
// would be chance, or the time of the day, follows from id.
func (c *Config) dataPartition(ctx context.Context, p *parts, id string) ([]media.Partition, error) {
	if c.Image.DataMB == 0 {
		return nil, nil
	}
	name := filepath.Join(p.work, "data")
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		return nil, err
	}
	if err := os.Truncate(name, int64(c.Image.DataMB)<<20); err != nil {
		return nil, err
	}
	unique := uuid.NewSHA1(uuid.NameSpaceOID, []byte("umbra data "+id)).String()
	cmd := exec.CommandContext(ctx, mkfs, "-q", "-U", unique, "-E", "hash_seed="+unique+",root_owner=0:0", name)
	cmd.Env = append(os.Environ(), fmt.Sprintf("E2FSPROGS_FAKE_TIME=%d", mkfsTime))
	if said, err := cmd.CombinedOutput(); err != nil {
		return nil, c.fail("image.data_mb", "%s (Debian: e2fsprogs): %w%s", mkfs, err, strings.TrimRight("\n"+string(said), "\n"))
	}
	return []media.Partition{{Name: c.Data.Partition, Source: name}}, nil
}
