// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package overlay lays documents that are given at deploy time over the configuration
// that an image was built with. A document is TOML, with the keys of the image's
// description that mean something in the guest, and is merged key by key.
//
// The schema is that of package config: what a role or a service can be told at build
// it can be told here. The package must never know where a document comes from.
package overlay

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/config/position"
)

// MaxSize bounds a document, in bytes.
const MaxSize = 64 << 10

// An Error says what is wrong with a document, and where.
type Error struct {
	Source string // of the document, as its reader named it
	Line   int    // 1 is the first; 0 if the fault has no place
	Key    string // path of the key: role[0].network.gateway
	Err    error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Source)
	if e.Line > 0 {
		fmt.Fprintf(&b, ": line %d", e.Line)
	}
	if e.Key != "" {
		b.WriteString(": " + e.Key)
	}
	return b.String() + ": " + e.Err.Error()
}

// Unwrap returns the reason, and [config.ErrInvalid] for every Error.
func (e *Error) Unwrap() []error { return []error{config.ErrInvalid, e.Err} }

// A Document is one document whose keys exist and have values of the right types.
type Document struct {
	Source string

	tree table // by the names of TOML
	pos  position.Map
}

// table is a TOML table or a JSON object.
type table = map[string]any

// Parse reads a document. Source names it in errors, which match [config.ErrInvalid]
// and are joined if there are several.
func Parse(source string, text []byte) (*Document, error) {
	fail := func(err error) error { return &Error{Source: source, Err: err} }
	if len(text) > MaxSize {
		return nil, fail(fmt.Errorf("larger than %d bytes", MaxSize))
	}
	d := &Document{Source: source, tree: make(table)}
	if err := toml.Unmarshal(text, &d.tree); err != nil {
		var bad *toml.DecodeError
		if !errors.As(err, &bad) {
			return nil, fail(err)
		}
		row, _ := bad.Position()
		return nil, &Error{source, row, strings.Join(bad.Key(), "."), errors.New(strings.TrimPrefix(bad.Error(), "toml: "))}
	}
	d.pos = position.Find(text)
	if err := d.check(); err != nil {
		return nil, err
	}
	return d, nil
}

// Hostname returns a document that gives a host name.
func Hostname(source, name string) *Document { return imageKey(source, "hostname", name) }

// AuthorizedKeys returns a document that gives public keys.
func AuthorizedKeys(source string, keys []string) *Document {
	list := make([]any, len(keys))
	for i, k := range keys {
		list[i] = k
	}
	return imageKey(source, "authorized_keys", list)
}

func imageKey(source, key string, value any) *Document {
	return &Document{Source: source, tree: table{"image": table{key: value}}, pos: position.Map{"image." + key: 0}}
}

// Apply lays documents over the configuration of an image, given as its JSON, the last
// one on top, and returns the whole, with defaults and validated. Its errors name the
// document and the line that a fault came with, as far as a document has brought it.
func Apply(image []byte, docs ...*Document) (*config.Config, error) {
	base := make(table)
	if err := json.Unmarshal(image, &base); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", config.ErrInvalid, config.Path, err)
	}
	for _, d := range docs {
		d.over(base)
	}
	text, err := json.Marshal(base)
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	c, err := config.LoadBytes(text)
	if err != nil {
		return nil, blame(err, base, docs)
	}
	return c, nil
}

// over merges the document into a configuration in the form of its JSON.
func (d *Document) over(base table) {
	if image, ok := d.tree["image"].(table); ok {
		maps.Copy(base, image)
	}
	for key := range same {
		v, ok := d.tree[key]
		if !ok {
			continue
		}
		if slices.Contains(whole, key) {
			delete(base, key)
		}
		mergeTable(base, table{key: v})
	}
	for _, l := range lists {
		base[l.guest] = mergeNamed(items(base, l.guest), items(d.tree, l.key), l.merge)
	}
}

// items returns the tables of a list.
func items(t table, key string) []any {
	list, _ := t[key].([]any)
	return list
}

func nameOf(item any) string {
	t, _ := item.(table)
	name, _ := t["name"].(string)
	return name
}

// find returns the place of the item of that name, -1 if there is none.
func find(list []any, name string) int {
	return slices.IndexFunc(list, func(item any) bool { return nameOf(item) == name })
}

// mergeNamed merges lists whose items have names: an item of a name that is there is
// merged into that one, another is added.
func mergeNamed(base, over []any, merge func(base, over table)) []any {
	for _, item := range over {
		o, _ := item.(table)
		i := find(base, nameOf(item))
		if i < 0 {
			base = append(base, table{})
			i = len(base) - 1
		}
		if b, ok := base[i].(table); ok {
			merge(b, o)
		}
	}
	return base
}

// mergeRole merges a role. A network's keys depend on its method: whoever gives that
// gives the whole network.
func mergeRole(base, over table) {
	if n, ok := over["network"].(table); ok {
		if _, whole := n["method"]; whole {
			delete(base, "network")
		}
	}
	mergeTable(base, over)
}

// mergeService merges a service: its environment by the names of the variables.
func mergeService(base, over table) {
	over = maps.Clone(over)
	if exec, ok := over["exec"]; ok {
		delete(over, "exec")
		over["argv"] = exec
	}
	if env, ok := over["env"].([]any); ok {
		over["env"] = mergeEnv(items(base, "env"), env)
	}
	mergeTable(base, over)
}

func mergeEnv(base, over []any) []any {
	base = slices.Clone(base)
	variable := func(entry any) string {
		s, _ := entry.(string)
		name, _, _ := strings.Cut(s, "=")
		return name
	}
	for _, entry := range over {
		i := slices.IndexFunc(base, func(b any) bool { return variable(b) == variable(entry) })
		if i < 0 {
			base = append(base, entry)
			continue
		}
		base[i] = entry
	}
	return base
}

// mergeTable merges tables key by key. A list, like any other value, takes the place
// of the one before.
func mergeTable(base, over table) {
	for key, v := range over {
		o, isTable := v.(table)
		b, wasTable := base[key].(table)
		if isTable && wasTable {
			mergeTable(b, o)
			continue
		}
		if isTable {
			v = make(table)
			mergeTable(v.(table), o)
		}
		base[key] = v
	}
}
