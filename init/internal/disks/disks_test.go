// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package disks

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	class := t.TempDir()
	for name, content := range map[string]string{
		"vda/serial":            "keep",
		"vda/uevent":            "MAJOR=254\nDEVNAME=vda\n",
		"vda1/partition":        "1\n",
		"vda1/device/serial":    "keep", // as if it were the disk's
		"vda1/uevent":           "DEVNAME=vda1\nPARTN=1\nPARTNAME=my data\n",
		"vdb/serial":            "",
		"nvme0n1/device/serial": "S4EV NK0\t  \n",
		"sda1/uevent":           "PARTNAME=twin\n",
		"sdb1/uevent":           "PARTNAME=twin\n",
	} {
		file := filepath.Join(class, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		rule string
		want Wanted
		name string // empty: an error
		says string
	}{
		{"a disk is known by its own serial number, its partitions are not", Wanted{Serial: "keep"}, "vda", ""},
		{"or by its controller's, without padding", Wanted{Serial: "S4EV NK0"}, "nvme0n1", ""},
		{"a partition is known by its name", Wanted{Partition: "my data"}, "vda1", ""},
		{"a part of a name is not enough", Wanted{Partition: "my"}, "", `none with a partition "my"`},
		{"a disk that is not there is named", Wanted{Serial: "other"}, "", `none with the serial number "other"`},
		{"of two that are alike none is taken", Wanted{Partition: "twin"}, "", "[sda1 sdb1] are all"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			name, err := Find(class, tt.want)
			if name != tt.name || (err == nil) != (tt.name != "") {
				t.Fatalf("Find: %q, %v", name, err)
			}
			if err != nil && (!errors.Is(err, ErrNone) || !strings.Contains(err.Error(), tt.says)) {
				t.Errorf("error %q does not match ErrNone, or does not say %q", err, tt.says)
			}
		})
	}
	if _, err := Find(filepath.Join(class, "absent"), Wanted{Serial: "keep"}); !errors.Is(err, ErrNone) {
		t.Errorf("a machine without block devices: %v, want ErrNone", err)
	}
}
