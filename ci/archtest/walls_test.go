// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package archtest

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

// A wall says what of umbra the packages of a pattern may import, beside
// themselves. Patterns are those of the go command: "x" is one package, "x/..."
// is x and all below it. Of several patterns the longest holds.
type wall struct {
	of  string
	may []string
}

var walls = []wall{
	// The hardware side does not know that shadows exist.
	{"drivers/...", nil},

	// Shadows know the hardware side, and a class no other class. What a class
	// is made of does not know what a shadow is.
	{"shadow", []string{"drivers", "drivers/pci", "drivers/drivertest", "shadow/ctl", "shadow/journal", "shadow/oplog"}},
	{"shadow/ctl", nil},
	{"shadow/ctl/timeline", []string{"shadow/ctl"}},
	{"shadow/oplog", nil},
	{"shadow/journal", []string{"shadow/ctl", "shadow/oplog"}},
	{"shadow/signals", []string{"drivers/xenstore/..."}},
	{"shadow/charshadow", []string{"drivers", "shadow", "shadow/ctl", "shadow/journal", "shadow/oplog"}},
	{"shadow/netshadow", []string{"drivers", "shadow", "shadow/ctl", "shadow/journal", "shadow/oplog", "shadow/netshadow/..."}},
	{"shadow/netshadow/dump", nil},
	{"shadow/netshadow/stack", []string{"shadow/netshadow/dump"}},
	{"shadow/netshadow/announce", []string{"shadow/netshadow/dump", "shadow/netshadow/stack"}},
	{"shadow/netshadow/hasten", []string{"shadow/netshadow/dump", "shadow/netshadow/stack"}},
	{"shadow/netshadow/shortcut", []string{"shadow/netshadow/dump"}},
	{"shadow/netshadow/settings", []string{"shadow/oplog", "shadow/netshadow/settings/traffic"}},
	{"shadow/netshadow/settings/traffic", nil},
	{"shadow/netshadow/harvest/...", nil},
	{"shadow/netshadow/asked", nil},
	{"shadow/netshadow/hold", []string{"shadow/netshadow/harvest/..."}},

	// PID 1 and what it starts. Only the agent puts shadows together; the rest
	// speaks with it.
	{"init", []string{"init/...", "shadow/ctl"}},
	{"init/config/...", nil},
	{"init/notify", nil},
	{"init/internal/...", []string{"init/..."}},
	{"init/internal/agent", []string{"init/config", "drivers", "drivers/xenstore/...", "shadow/..."}},
	{"init/internal/onestep", nil},
	// What is said at deploy time is found with drivers, and in xenstore.
	{"init/internal/deploy", []string{"init/config/...", "init/internal/onestep", "drivers", "drivers/xenstore/..."}},
	// So are disks. What is on one does not matter to whoever finds it.
	{"init/internal/disks", []string{"drivers"}},
	{"init/internal/data", []string{"init/config", "init/internal/disks", "init/internal/onestep"}},
	// A new version has proved itself by what PID 1 and the agent say.
	{"init/internal/update", []string{"init/config/...", "init/internal/disks", "init/internal/onestep", "init/internal/supervise", "init/notify", "shadow/ctl"}},
	// Xenstore is where the hardware side and the toolstack's wishes meet.
	{"init/internal/xenctl", []string{"init/internal/power", "drivers/xenstore/..."}},

	// The status page is a stranger to them: it knows what the agent tells it.
	{"init/statusd/...", []string{"shadow/ctl/..."}},

	// The host side knows of the guest its configuration and the protocol of
	// its agent, and of drivers what their files say of themselves.
	{"image/...", []string{"init/config/...", "drivers/modalias", "drivers/modinfo"}},
	{"migrate/...", nil},
	// Whether a device uses its line is in its configuration space, and where a guest asks
	// for it, in xenstore.
	{"migrate/xen/...", []string{"migrate/...", "drivers/pci"}},
	{"migrate/xen/pcifront", []string{"migrate/xen/privcmd", "drivers/xenstore/..."}},
	{"migrate/xen/privcmd", nil},
	// What users start from has nothing of umbra in it.
	{"image/examples/...", nil},
	{"ci/...", []string{"image/...", "migrate/...", "init/config", "shadow/ctl/..."}},
	// A Xen host's dom0 is put together of modules too.
	{"ci/xenlab/dom0", []string{"image/...", "drivers/modinfo"}},
	// The nemesis tries to load what the kernel has to refuse.
	{"ci/vmtests/internal/nemesis", []string{"shadow/ctl", "drivers/kmod"}},
	// What a driver costs by itself is measured in a guest without an agent.
	{"ci/bench/load", []string{"drivers", "init/config", "ci/bench/internal/..."}},
	{"cmd/...", []string{"ci/demo", "image/...", "migrate/...", "shadow/ctl/..."}},
}

func matches(pattern, pkg string) bool {
	tree, all := strings.CutSuffix(pattern, "/...")
	return pkg == tree || all && strings.HasPrefix(pkg, tree+"/")
}

// wallOf returns the wall that holds for pkg.
func wallOf(pkg string) (best wall, ok bool) {
	for _, w := range walls {
		if matches(w.of, pkg) && (!ok || len(w.of) > len(best.of)) {
			best, ok = w, true
		}
	}
	return best, ok
}

func (w wall) allows(pkg string) bool {
	return matches(w.of, pkg) || slices.ContainsFunc(w.may, func(p string) bool { return matches(p, pkg) })
}

func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		pkg := s.dir()
		w, ok := wallOf(pkg)
		if !ok && pkg != "." {
			t.Errorf("%s: no wall is drawn around package %s: add it to the table", s.path, pkg)
			continue
		}
		for _, p := range s.imports() {
			ours, is := strings.CutPrefix(p, module+"/")
			if is && !w.allows(ours) {
				t.Errorf("%s: package %s may not import %s", s.path, pkg, ours)
			}
		}
	}
}

// The table is only as good as its reading.
func TestWalls(t *testing.T) {
	for _, tt := range []struct {
		rule     string
		from, to string
		want     bool
	}{
		{"drivers know no shadow", "drivers/kmod", "shadow/ctl", false},
		{"shadows never know init", "shadow", "init/notify", false},
		{"one class never knows another", "shadow/netshadow", "shadow/charshadow", false},
		{"nor the other way round", "shadow/charshadow", "shadow/netshadow/settings", false},
		{"a class knows the log", "shadow/netshadow", "shadow/oplog", true},
		{"a part of a class does not know what it is a part of", "shadow/netshadow/hold", "shadow/netshadow", false},
		{"the agent puts the shadow together", "init/internal/agent", "shadow/netshadow", true},
		{"PID 1 does not", "init", "shadow", false},
		{"the host knows the protocol", "ci/rig", "shadow/ctl", true},
		{"and nothing behind it", "cmd/umbra", "shadow/oplog", false},
		{"the status page knows the protocol", "init/statusd/internal/page", "shadow/ctl/timeline", true},
		{"and nothing of PID 1", "init/statusd", "init/notify", false},
		{"the image builder does not load drivers", "image", "drivers", false},
	} {
		w, ok := wallOf(tt.from)
		if got := ok && w.allows(tt.to); got != tt.want {
			t.Errorf("%s: %s may import %s: %t, want %t", tt.rule, tt.from, tt.to, got, tt.want)
		}
	}
}

// loads are the doors to the kernel's module loader, by the import path and
// what is used of it.
var loads = map[string][]string{
	"golang.org/x/sys/unix": {
		"InitModule", "FinitModule", "DeleteModule",
		"SYS_INIT_MODULE", "SYS_FINIT_MODULE", "SYS_DELETE_MODULE",
	},
	"syscall": {"SYS_INIT_MODULE", "SYS_FINIT_MODULE", "SYS_DELETE_MODULE"},
}

// moduleLoader is a library that opens those doors too.
const moduleLoader = "github.com/u-root/u-root/pkg/kmodule"

func TestOnlyDriversTalkToTheModuleLoader(t *testing.T) {
	const owner = "drivers/..."
	used := false
	for _, s := range sources(t) {
		imports := s.imports()
		if _, ok := imports["kmodule"]; ok && imports["kmodule"] == moduleLoader && !matches(owner, s.dir()) && s.dir() != "." {
			t.Errorf("%s imports %s", s.path, moduleLoader)
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && slices.Contains(loads[imports[x.Name]], sel.Sel.Name) {
				used = true
				if !matches(owner, s.dir()) {
					t.Errorf("%s calls %s.%s", s.path, x.Name, sel.Sel.Name)
				}
			}
			return true
		})
	}
	if !used {
		t.Error("nobody loads a module: the test looks for the wrong names")
	}
}

// In the guest every load goes through shadow.Manager, so that no driver runs
// without a shadow. Whoever else holds a drivers.Tree only passes it on. The one
// exception has no agent in its guest: it measures a driver alone.
func TestOnlyTheManagerAsksDriversToLoad(t *testing.T) {
	verbs := []string{"Load", "LoadModule", "Unload", "Prefetch", "Bind", "Unbind", "SetOverride"}
	used := false
	for _, s := range sources(t) {
		imports := s.imports()
		if imports["drivers"] != module+"/drivers" || matches("drivers/...", s.dir()) || s.isTest() {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !slices.Contains(verbs, sel.Sel.Name) {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && imports[x.Name] != "" {
				return true // a function of a package, not a method
			}
			used = true
			if s.dir() != "shadow" && s.dir() != "ci/bench/load" {
				t.Errorf("%s calls %s of something: drivers are loaded by shadow.Manager only", s.path, sel.Sel.Name)
			}
			return true
		})
	}
	if !used {
		t.Error("nobody loads a driver: the test looks for the wrong names")
	}
}

const licence = `// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.
`

func TestLicence(t *testing.T) {
	for _, s := range sources(t) {
		if !s.generated() && !strings.HasPrefix(s.text, licence) {
			t.Errorf("%s does not start with the licence", s.path)
		}
	}
	walk(t, func(name string) {
		if strings.HasSuffix(name, ".c") && !strings.HasPrefix(read(t, name), "// SPDX-License-Identifier: BSD-3-Clause") {
			t.Errorf("%s does not start with its licence", name)
		}
	})
}

func TestPackageComments(t *testing.T) {
	has := make(map[string]bool)
	for _, s := range sources(t) {
		if s.isTest() {
			continue
		}
		has[s.dir()] = has[s.dir()] || s.file.Doc != nil
	}
	for dir, ok := range has {
		if !ok {
			t.Errorf("package %s does not say what it is for", dir)
		}
	}
}
