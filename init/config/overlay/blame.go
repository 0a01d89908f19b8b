// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package overlay

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/umbra-vm/umbra/init/config"
)

// blame says of the faults of a merged configuration which documents brought them.
func blame(err error, merged table, docs []*Document) error {
	var errs []error
	for _, e := range flatten(err) {
		var f *config.FieldError
		if errors.As(e, &f) {
			e = place(f, merged, docs)
		}
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}

// flatten returns the errors that [errors.Join] joined.
func flatten(err error) []error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		if _, single := err.(*config.FieldError); !single {
			return j.Unwrap()
		}
	}
	return []error{err}
}

// place finds the last document that has the field or, if none has, the last that has
// what is around it: a gateway may be missing because a document gives the method.
func place(f *config.FieldError, merged table, docs []*Document) error {
	reason := f.Err
	if f.Value != "" {
		reason = fmt.Errorf("%q: %w", f.Value, f.Err)
	}
	prefix, whole := itemOf(f.Field, merged)
	for rest := whole; ; rest = rest[:max(strings.LastIndexAny(rest, ".["), 0)] {
		for _, d := range slices.Backward(docs) {
			key := prefix(d)
			if key == "" {
				continue
			}
			if line, ok := d.pos[key+rest]; ok {
				return &Error{d.Source, line, key + whole, reason}
			}
		}
		if rest == "" {
			return &Error{config.Path, 0, f.Field, reason}
		}
	}
}

// itemOf divides the path of a field of the merged configuration into what it is in,
// as a function that returns the key of that in a document, or "", and the rest.
func itemOf(path string, merged table) (prefix func(*Document) string, rest string) {
	for _, l := range lists {
		index, ok := strings.CutPrefix(path, l.guest+"[")
		if !ok {
			continue
		}
		index, rest, _ = strings.Cut(index, "]")
		var i int
		all := items(merged, l.guest)
		if _, err := fmt.Sscan(index, &i); err != nil || i >= len(all) {
			break
		}
		return func(d *Document) string {
			if j := find(items(d.tree, l.key), nameOf(all[i])); j >= 0 {
				return fmt.Sprintf("%s[%d]", l.key, j)
			}
			return ""
		}, strings.Replace(rest, ".argv", ".exec", 1)
	}
	if table, rest, ok := strings.Cut(path, "."); ok && same[table] != nil {
		return func(*Document) string { return table }, "." + rest
	}
	return func(*Document) string { return "image" }, "." + path
}
