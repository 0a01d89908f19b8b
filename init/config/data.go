// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package config

import (
	"strings"
	"unicode"
)

// DataPath is where the disk of [Data] is mounted.
const DataPath = "/data"

// DataNeed is by what a service needs that the data is there.
const DataNeed = "data"

// Data says which disk keeps what is to outlive the guest's boot. Without either key there
// is none. It has the same form in the builder's TOML as in the guest's JSON.
type Data struct {
	Serial    string `json:"serial,omitempty" toml:"serial"`       // of a whole disk
	Partition string `json:"partition,omitempty" toml:"partition"` // name in a GPT
}

// Enabled reports whether there is to be such a disk.
func (d Data) Enabled() bool { return d != Data{} }

func (k *checker) data(d Data, roles map[string]int) {
	if !d.Enabled() {
		return
	}
	if d.Serial != "" && d.Partition != "" {
		k.fail("data.partition", d.Partition, "want this or data.serial")
	}
	for field, value := range map[string]string{"data.serial": d.Serial, "data.partition": d.Partition} {
		if strings.TrimSpace(value) != value || strings.ContainsFunc(value, unicode.IsControl) {
			k.fail(field, value, "want printable characters, without a space at either end")
		}
	}
	if i, taken := roles[DataNeed]; taken {
		k.fail("data", "", "roles[%d] has the name by which services need it", i)
	}
}
