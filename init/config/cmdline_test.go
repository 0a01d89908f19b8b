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

func TestOverride(t *testing.T) {
	for _, tt := range []struct {
		name, cmdline string
		shadow        config.Switch
		debug         bool
		hostname      string
		fails         string
	}{
		{"other words are left alone", "console=ttyS0 quiet umbral=1", config.On, false, "umbra", ""},
		{"the shadow can be switched off", "umbra.shadow=off", config.Off, false, "umbra", ""},
		{"the last word of a key counts", "umbra.shadow=off umbra.shadow=on", config.On, false, "umbra", ""},
		{"debug needs no value", "umbra.debug", config.On, true, "umbra", ""},
		{"debug can be switched off", "umbra.debug umbra.debug=off", config.On, false, "umbra", ""},
		{"the host name can be set", "umbra.hostname=b", config.On, false, "b", ""},
		{"a bad value is refused and the rest applied", "umbra.shadow=no umbra.debug", config.On, true, "umbra", "umbra.shadow"},
		{"an unknown key is refused", "umbra.shaddow=off", config.On, false, "umbra", "umbra.shaddow"},
		{"a document is not for this", "umbra.config=Kg==", config.On, false, "umbra", ""},
		{"a host name with a slash is refused", "umbra.hostname=a/b", config.On, false, "umbra", "umbra.hostname"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c config.Config
			c.SetDefaults()
			err := c.Override(tt.cmdline)
			if tt.fails == "" && err != nil {
				t.Error(err)
			}
			if tt.fails != "" && (!errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), tt.fails)) {
				t.Errorf("error %v, want ErrInvalid naming %s", err, tt.fails)
			}
			if c.Shadow != tt.shadow || c.Debug != tt.debug || c.Hostname != tt.hostname {
				t.Errorf("got shadow=%s debug=%t hostname=%s, want %s %t %s", c.Shadow, c.Debug, c.Hostname, tt.shadow, tt.debug, tt.hostname)
			}
		})
	}
}

func TestCmdlineDocument(t *testing.T) {
	for _, tt := range []struct {
		rule, cmdline, want string
		fails               bool
	}{
		{"there may be none", "quiet umbra.debug", "", false},
		{"padding may be missing", "a=b umbra.config=aG9zdA quiet", "host", false},
		{"or be there", "umbra.config=aG9zdA==", "host", false},
		{"the last one counts", "umbra.config=aG9zdA umbra.config=YQ", "a", false},
		{"what is not base64 is refused", "umbra.config=[image]", "", true},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			got, err := config.CmdlineDocument(tt.cmdline)
			if string(got) != tt.want || (err != nil) != tt.fails {
				t.Errorf("got %q, %v", got, err)
			}
			if err != nil && (!errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), "umbra.config")) {
				t.Errorf("error %v does not match ErrInvalid, or does not name the word", err)
			}
		})
	}
}
