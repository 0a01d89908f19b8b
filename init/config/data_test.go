// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package config_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/init/config"
)

func TestData(t *testing.T) {
	const app = `"services":[{"name":"app","argv":["/app"],"needs":["data"]}]`
	for _, tt := range []struct{ rule, text, fails string }{
		{"a disk is known by its serial number", `{"data":{"serial":"keep"},` + app + `}`, ""},
		{"or by a partition", `{"data":{"partition":"my data"},` + app + `}`, ""},
		{"not by both", `{"data":{"serial":"a","partition":"b"}}`, "data.partition"},
		{"padding is nothing to know it by", `{"data":{"serial":"a "}}`, "data.serial"},
		{"nobody needs data that there is not", `{` + app + `}`, "services[0].needs[0]"},
		{"no role has the name of the need", `{"data":{"serial":"a"},"roles":[{"name":"data","class":"net"}]}`, "data"},
		{"nor has a service", `{"services":[{"name":"data","argv":["/app"]}]}`, "services[0].name"},
	} {
		t.Run(tt.rule, func(t *testing.T) { wantFault(t, tt.text, tt.fails) })
	}
}

// wantFault wants a configuration to be refused because of that field, or to be taken if
// it is empty.
func wantFault(t *testing.T, text, field string) {
	t.Helper()
	_, err := config.LoadBytes([]byte(text))
	if (err != nil) != (field != "") {
		t.Fatalf("error %v, want one about %q", err, field)
	}
	if err != nil && (!errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), field+":")) {
		t.Errorf("error %v does not match ErrInvalid, or does not name %s", err, field)
	}
}
