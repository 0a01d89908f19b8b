// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package overlay

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/umbra-vm/umbra/init/config"
)

// imageKeys are the keys of the table image, which are keys of the guest's
// configuration itself.
var imageKeys = []string{"hostname", "authorized_keys", "shadow", "debug"}

// same are the tables that are the same here and in the guest's configuration.
var same = map[string]reflect.Type{
	"log":  reflect.TypeFor[config.Log](),
	"data": reflect.TypeFor[config.Data](),
	"ntp":  reflect.TypeFor[config.NTP](),
}

// whole are those of them whose keys exclude each other: a document gives all or nothing.
var whole = []string{"data"}

// A list is a list of tables with names.
type list struct {
	key, guest string // here, and in the guest's configuration
	of         reflect.Type
	merge      func(base, over table) // of two items with the same name
}

var lists = []list{
	{"role", "roles", reflect.TypeFor[config.Role](), mergeRole},
	{"service", "services", reflect.TypeFor[config.Service](), mergeService},
}

// Of what a description of an image has, this is for the build alone.
var (
	buildTables  = []string{"kernel", "packages", "drivers", "status", "machine", "update"}
	buildKeys    = []string{"name", "compression", "cmdline", "files"}
	buildService = []string{"files", "user", "groups", "go"}
)

var (
	errNoKey = errors.New("no such key")
	errBuild = errors.New("is decided when the image is built")
)

// checker collects what is wrong with a document.
type checker struct {
	doc  *Document
	errs []error
}

func (k *checker) fail(key string, err error) {
	k.errs = append(k.errs, &Error{k.doc.Source, k.doc.pos.Line(key), key, err})
}

// check refuses keys that do not exist and values of other types than the guest's
// configuration has.
func (d *Document) check() error {
	k := &checker{doc: d}
	for _, key := range slices.Sorted(maps.Keys(d.tree)) {
		v := d.tree[key]
		i := slices.IndexFunc(lists, func(l list) bool { return l.key == key })
		switch {
		case key == "image":
			k.image(v)
		case same[key] != nil:
			k.value(key, v, same[key])
		case i >= 0:
			k.value(key, v, reflect.SliceOf(lists[i].of))
			k.names(key, v)
		case slices.Contains(buildTables, key):
			k.fail(key, errBuild)
		default:
			k.fail(key, errNoKey)
		}
	}
	return errors.Join(k.errs...)
}

func (k *checker) image(v any) {
	t, ok := v.(table)
	if !ok {
		k.fail("image", errors.New("want a table"))
		return
	}
	for _, key := range slices.Sorted(maps.Keys(t)) {
		f, ok := field(reflect.TypeFor[config.Config](), key)
		switch path := "image." + key; {
		case ok && slices.Contains(imageKeys, key):
			k.value(path, t[key], f.Type)
		case slices.Contains(buildKeys, key):
			k.fail(path, errBuild)
		default:
			k.fail(path, errNoKey)
		}
	}
}

// names makes sure that the items of a list can be told apart.
func (k *checker) names(key string, v any) {
	list, _ := v.([]any)
	for i, item := range list {
		at := fmt.Sprintf("%s[%d]", key, i)
		name := nameOf(item)
		if name == "" {
			k.fail(at, errors.New("has no name"))
		} else if first := find(list, name); first < i {
			k.fail(at+".name", fmt.Errorf("%q: already the name of %s[%d]", name, key, first))
		}
	}
}

// value checks a value against the type that it will have.
func (k *checker) value(path string, v any, t reflect.Type) {
	wrong := func(want string) { k.fail(path, fmt.Errorf("want %s", want)) }
	switch t.Kind() {
	case reflect.Pointer:
		k.value(path, v, t.Elem())
	case reflect.Struct:
		tab, ok := v.(table)
		if !ok {
			wrong("a table")
			return
		}
		for _, key := range slices.Sorted(maps.Keys(tab)) {
			if t == reflect.TypeFor[config.Service]() && slices.Contains(buildService, key) {
				k.fail(path+"."+key, errBuild)
				continue
			}
			f, ok := field(t, key)
			if !ok {
				k.fail(path+"."+key, errNoKey)
				continue
			}
			k.value(path+"."+key, tab[key], f.Type)
		}
	case reflect.Slice:
		list, ok := v.([]any)
		if !ok {
			wrong("a list")
			return
		}
		for i, item := range list {
			k.value(path+"["+strconv.Itoa(i)+"]", item, t.Elem())
		}
	case reflect.String:
		if _, ok := v.(string); !ok {
			wrong("a string")
		}
	case reflect.Bool:
		if _, ok := v.(bool); !ok {
			wrong("true or false")
		}
	case reflect.Int, reflect.Int64:
		if n, ok := v.(int64); !ok || n < math.MinInt || n > math.MaxInt {
			wrong("an integer")
		}
	default:
		k.fail(path, errNoKey)
	}
}

// field returns the field of a type that a key stands for: the one of that name in
// JSON, which is that of TOML too, but for a service's exec.
func field(t reflect.Type, key string) (reflect.StructField, bool) {
	if t == reflect.TypeFor[config.Service]() {
		switch key {
		case "exec":
			key = "argv"
		case "argv":
			return reflect.StructField{}, false
		}
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name == key && key != "-" {
			return f, true
		}
	}
	return reflect.StructField{}, false
}
