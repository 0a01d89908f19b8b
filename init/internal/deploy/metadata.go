// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package deploy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/config/overlay"
)

// firstLine is with what a user-data that is a document of ours begins.
const firstLine = "#umbra-config"

// userData reads the user's part of a volume. An empty one says nothing; of one that is
// meant for somebody else nothing would be done.
func userData(source string, text []byte) ([]*overlay.Document, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, nil
	}
	if first, _, _ := bytes.Cut(text, []byte("\n")); string(bytes.TrimRight(first, " \r")) != firstLine {
		return nil, &overlay.Error{Source: source, Line: 1, Err: errors.New("want " + firstLine + " here, and a document of umbra's below")}
	}
	return parse([]found{{source, text}})
}

// metaData reads NoCloud's meta-data: of YAML one "key: value" a line.
func metaData(source string, text []byte) ([]*overlay.Document, error) {
	var docs []*overlay.Document
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		fail := func(format string, args ...any) ([]*overlay.Document, error) {
			return nil, &overlay.Error{Source: source, Line: n, Err: fmt.Errorf(format, args...)}
		}
		line = strings.TrimRight(line, " \r\n")
		if line == "" || line == "---" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok || value != "" && value[0] != ' ' {
			return fail("want key: value")
		}
		switch key {
		case "instance-id":
		case "local-hostname":
			docs = append(docs, overlay.Hostname(source, unquote(strings.TrimSpace(value))))
		default:
			return fail("%s: no such key", key)
		}
	}
	return docs, nil
}

// unquote takes the quotes from a scalar that has some.
func unquote(s string) string {
	if len(s) >= 2 && (s[0] == '"' || s[0] == '\'') && s[len(s)-1] == s[0] {
		return s[1 : len(s)-1]
	}
	return s
}

// openStack reads meta_data.json. What else is in it OpenStack has put there, not the
// user.
func openStack(source string, text []byte) ([]*overlay.Document, error) {
	if len(text) > overlay.MaxSize {
		return nil, &overlay.Error{Source: source, Err: fmt.Errorf("larger than %d bytes", overlay.MaxSize)}
	}
	var meta struct {
		Hostname   string            `json:"hostname"`
		PublicKeys map[string]string `json:"public_keys"`
	}
	if err := json.Unmarshal(text, &meta); err != nil {
		return nil, &overlay.Error{Source: source, Err: fmt.Errorf("%w: %w", config.ErrInvalid, err)}
	}
	var docs []*overlay.Document
	if meta.Hostname != "" {
		docs = append(docs, overlay.Hostname(source, meta.Hostname))
	}
	var keys []string
	for _, name := range slices.Sorted(maps.Keys(meta.PublicKeys)) {
		keys = append(keys, strings.TrimSpace(meta.PublicKeys[name]))
	}
	if len(keys) > 0 {
		docs = append(docs, overlay.AuthorizedKeys(source, keys))
	}
	return docs, nil
}
