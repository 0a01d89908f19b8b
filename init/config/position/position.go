// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package position tells where in a TOML document each key stands. The decoder
// forgets where a value came from; an error that is found later must still name the
// line. The package never knows what a key means.
package position

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// Map tells the line on which each key of a document stands, under the key's path:
// drivers.modules, drivers.modules[1], role[0].network.gateway.
type Map map[string]int

// Find reads a document that the decoder has accepted. It stops at
// the first thing it cannot follow: a missing position only makes an error
// less precise.
func Find(document []byte) Map {
	pos := make(Map)
	var p unstable.Parser
	p.Reset(document)
	line := func(n *unstable.Node) int {
		return 1 + bytes.Count(document[:n.Raw.Offset], []byte("\n"))
	}
	tables := make(map[string]int) // elements seen of each array of tables
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			var first int
			table, first = "", 0
			for it := e.Key(); it.Next(); {
				n := it.Node()
				if first == 0 {
					first = line(n)
				}
				table = join(table, string(n.Data))
				if e.Kind == unstable.ArrayTable && it.IsLast() {
					tables[table]++
				}
				if count := tables[table]; count > 0 {
					table = fmt.Sprintf("%s[%d]", table, count-1)
				}
			}
			pos[table] = first
		case unstable.KeyValue:
			pos.keyValue(table, e, line)
		}
	}
	return pos
}

// keyValue enters the key of e, below table, and what its value contains.
func (pos Map) keyValue(table string, e *unstable.Node, line func(*unstable.Node) int) {
	path, at := table, 0
	for it := e.Key(); it.Next(); {
		path = join(path, string(it.Node().Data))
		at = line(it.Node())
		pos[path] = at
	}
	pos.value(path, e.Value(), at, line)
}

func (pos Map) value(path string, v *unstable.Node, at int, line func(*unstable.Node) int) {
	switch v.Kind {
	case unstable.Array:
		i := 0
		for it := v.Children(); it.Next(); {
			n := it.Node()
			if n.Kind == unstable.Comment {
				continue
			}
			element := fmt.Sprintf("%s[%d]", path, i)
			if n.Raw.Length > 0 {
				at = line(n)
			}
			pos[element] = at
			pos.value(element, n, at, line)
			i++
		}
	case unstable.InlineTable:
		for it := v.Children(); it.Next(); {
			if it.Node().Kind == unstable.KeyValue {
				pos.keyValue(path, it.Node(), line)
			}
		}
	}
}

// Line returns the line of the key with that path or, when the document does
// not have the key, of the nearest table around it; 0 if there is none.
func (pos Map) Line(path string) int {
	for path != "" {
		if n, ok := pos[path]; ok {
			return n
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return 0
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
