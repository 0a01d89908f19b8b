// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/oplog"
)

// ErrNoInterface is matched by errors about an interface that does not exist,
// or no longer.
var ErrNoInterface = errors.New("no such network interface")

// OpError is a failed request to the kernel about one interface.
type OpError struct {
	Op     string // what was tried, e.g. "get rings"
	Device string // interface name; empty if it concerns none
	Err    error
}

func (e *OpError) Error() string {
	if e.Device == "" {
		return fmt.Sprintf("settings: %s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("settings: %s: %s: %v", e.Device, e.Op, e.Err)
}

func (e *OpError) Unwrap() error { return e.Err }

// Is matches ErrNoInterface where the kernel answered ENODEV.
func (e *OpError) Is(target error) bool {
	return target == ErrNoInterface && errors.Is(e.Err, unix.ENODEV)
}

// Values are the settings of an interface: operation key to value. A key is
// absent where the interface has no such setting or cannot tell it now, like
// the speed of an interface that negotiates it.
type Values map[string]string

// In returns the values whose operations have the scope.
func (v Values) In(scope Scope) Values {
	out := make(Values, len(v))
	for key, value := range v {
		if o, ok := lookup(key); ok && o.Scope&scope != 0 {
			out[key] = value
		}
	}
	return out
}

// Diff returns the keys whose values differ between v and w, sorted. A key
// that only one of them has counts as different.
func (v Values) Diff(w Values) []string {
	var keys []string
	for key, value := range v {
		if other, ok := w[key]; !ok || other != value {
			keys = append(keys, key)
		}
	}
	for key := range w {
		if _, ok := v[key]; !ok {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func (v Values) clone() Values {
	if v == nil {
		return Values{}
	}
	return maps.Clone(v)
}

// Deferred is an operation that an interface could not take, and why.
type Deferred struct {
	Op     oplog.Op
	Reason string // for people; one line
}

func (d Deferred) String() string { return d.Op.String() + ": " + d.Reason }

// In returns the operations that have the scope, in their order. An operation
// that the table does not know has every scope: it is for Apply to defer it.
func In(ops []oplog.Op, scope Scope) []oplog.Op {
	return slices.DeleteFunc(slices.Clone(ops), func(op oplog.Op) bool {
		o, ok := lookup(op.Key)
		return ok && o.Scope&scope == 0
	})
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func parseOnOff(s string) (on bool, err error) {
	switch s {
	case "on":
		return true, nil
	case "off":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither on nor off", s)
}

// lookup finds the operation of a key. A key of a family, such as
// "net.feature.rx-all", is found under the family's name.
func lookup(key string) (*Operation, bool) {
	if o, ok := byKey[key]; ok {
		return o, true
	}
	for _, o := range families {
		if name, ok := strings.CutPrefix(key, strings.TrimSuffix(o.Key, "*")); ok && name != "" {
			return o, true
		}
	}
	return nil, false
}
