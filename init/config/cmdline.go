// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package config

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/umbra-vm/umbra/init/config/slot"
)

// Override applies the switches of a kernel command line, so that one image
// can be booted differently without being built again:
//
//	umbra.shadow=on|off   Config.Shadow
//	umbra.debug[=on|off]  Config.Debug
//	umbra.hostname=NAME   Config.Hostname
//	umbra.slot=SLOT       Config.Slot, as the image on a disk with slots says
//	umbra.config=BASE64   a document of its own, see [CmdlineDocument]
//
// Other words are not its business, but a word that starts with "umbra." and
// is none of these, or has another value, is an error matching [ErrInvalid].
// What it could apply stays applied.
func (c *Config) Override(cmdline string) error {
	k := new(checker)
	for _, word := range strings.Fields(cmdline) {
		if !strings.HasPrefix(word, "umbra.") {
			continue
		}
		key, value, given := strings.Cut(word, "=")
		switch key {
		case "umbra.shadow":
			if s := Switch(value); s == On || s == Off {
				c.Shadow = s
			} else {
				k.fail(key, value, "want on or off")
			}
		case "umbra.debug":
			switch {
			case !given || value == string(On):
				c.Debug = true
			case value == string(Off):
				c.Debug = false
			default:
				k.fail(key, value, "want on or off")
			}
		case "umbra.hostname":
			if len(value) <= 64 && hostname.MatchString(value) {
				c.Hostname = value
			} else {
				k.fail(key, value, "not a host name")
			}
		case "umbra.slot":
			s, err := slot.Parse(value)
			if err != nil {
				k.fail(key, "", "%w", err)
				continue
			}
			c.Slot = s
		case "umbra.config":
			// Laid below these words, not here.
		default:
			k.fail(key, value, "no such kernel parameter")
		}
	}
	if len(k.errs) > 0 {
		return fmt.Errorf("kernel command line: %w", k.errs[0])
	}
	return nil
}

// CmdlineDocument returns the configuration that a kernel command line carries in
// base64, nil if it has none. Of several the last counts.
func CmdlineDocument(cmdline string) ([]byte, error) {
	var text []byte
	for _, word := range strings.Fields(cmdline) {
		value, ok := strings.CutPrefix(word, "umbra.config=")
		if !ok {
			continue
		}
		var err error
		if text, err = base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "=")); err != nil {
			return nil, fmt.Errorf("kernel command line: %w", &FieldError{Field: "umbra.config", Err: err})
		}
	}
	return text, nil
}
