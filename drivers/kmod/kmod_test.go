// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package kmod

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// index returns the Index of a directory with these files.
func index(t *testing.T, files map[string]string) *Index {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	x, err := ReadIndex(dir)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// show writes a plan as "module(needs;after) ...".
func show(p Plan) string {
	name := func(steps []int) string {
		var names []string
		for _, i := range steps {
			names = append(names, p.Steps[i].Module.Name)
		}
		return strings.Join(names, ",")
	}
	var steps []string
	for _, s := range p.Steps {
		steps = append(steps, s.Module.Name+"("+name(s.Needs)+";"+name(s.After)+")")
	}
	return strings.Join(steps, " ")
}

func TestPlan(t *testing.T) {
	x := index(t, map[string]string{
		"modules.dep": `
kernel/a.ko.zst: kernel/b.ko.xz kernel/c-d.ko
kernel/b.ko.xz: kernel/c-d.ko
kernel/c-d.ko:
/extra/e.ko:
f.ko: g.ko
g.ko: f.ko
h.ko: in.ko b.ko
soft.ko:
into.ko:
self.ko:
`,
		"modules.softdep": "softdep soft pre: e no-such post: b\nsoftdep soft pre: in f\n" +
			"softdep into ignored pre: f\nsoftdep self pre: self post: self\n",
		"modules.alias":           "alias net-x* b\nalias net-x* e\nalias net-xy gone\n",
		"modules.builtin":         "kernel/in.ko\n",
		"modules.builtin.modinfo": "in.alias=net-xyz\x00in.license=GPL\x00",
	})
	for _, tt := range []struct{ rule, names, want string }{
		{"needs come first, the deepest before the others", "a", "c_d(;) b(c_d;) a(c_d,b;)"},
		{"what is planned already is not planned again", "b a", "c_d(;) b(c_d;) a(c_d,b;)"},
		{"names are spelt either way", "c_d c-d", "c_d(;)"},
		{"built-in modules take no step", "in h", "c_d(;) b(c_d;) h(b;)"},
		{"an alias stands for all its modules that exist", "net-xyz", "c_d(;) b(c_d;) e(;)"},
		{"soft dependencies are waited for and not needed", "soft", "e(;) soft(;e) c_d(;soft) b(c_d;soft)"},
		{"soft dependencies in a cycle of their own are left out", "into", "into(;)"},
		{"a module is no soft dependency of itself", "self", "self(;)"},
		{"nothing takes no step", "", ""},
	} {
		p, err := x.Plan(strings.Fields(tt.names)...)
		if err != nil {
			t.Errorf("%s: %v", tt.rule, err)
			continue
		}
		if got := show(p); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.rule, got, tt.want)
		}
	}
	if _, err := x.Plan("a", "f"); !errors.Is(err, ErrCycle) || !strings.Contains(err.Error(), "f -> g -> f") {
		t.Errorf("a cycle: %v", err)
	}
	if m, _ := x.Module("e"); m.Path != "/extra/e.ko" {
		t.Errorf("an absolute path reads as %s", m.Path)
	}
}

// script is a kernel that answers with its errors, one after the other, and puts
// a module into the given states.
type script struct {
	t      *testing.T
	dir    string // <sysfs>/module
	errs   []error
	states []State // after each answer
	calls  int
}

func (s *script) answer(name string) error {
	i := s.calls
	s.calls++
	if i >= len(s.errs) {
		s.t.Fatalf("call %d to the kernel", s.calls)
	}
	setState(s.t, s.dir, name, s.states[i])
	return s.errs[i]
}

func setState(t *testing.T, dir, name string, state State) {
	t.Helper()
	dir = filepath.Join(dir, name)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if state == Absent {
		return
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "initstate"), []byte(state+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (s *script) InitModule(f *os.File, _ string) error {
	return s.answer(strings.TrimSuffix(filepath.Base(f.Name()), ".ko"))
}

func (s *script) DeleteModule(name string) error { return s.answer(name) }

func TestOtherProgramsChangeTheModule(t *testing.T) {
	errs := func(e ...error) []error { return e }
	states := func(s ...State) []State { return s }
	for _, tt := range []struct {
		rule   string
		unload bool
		state  State // before
		errs   []error
		states []State
		want   error
		calls  int
	}{
		{"a live module needs no call", false, Live, nil, nil, nil, 0},
		{"a module that became live meanwhile is a success", false, Absent, errs(unix.EEXIST), states(Live), nil, 1},
		{"a module that is leaving is loaded when it has left", false, Leaving,
			errs(unix.EBUSY, unix.EBUSY, nil), states(Leaving, Absent, Live), nil, 3},
		{"a module that the other one failed to load is tried once more", false, Coming,
			errs(unix.EBUSY, nil), states(Absent, Live), nil, 2},
		{"a module whose own init says EBUSY is not tried for ever", false, Absent,
			errs(unix.EBUSY, unix.EBUSY), states(Absent, Absent), unix.EBUSY, 2},
		{"a module that is being loaded is unloaded when it is live", true, Coming,
			errs(unix.EBUSY, nil), states(Coming, Absent), nil, 2},
		{"a module that somebody else unloads is a success", true, Leaving,
			errs(unix.EBUSY, unix.ENOENT), states(Leaving, Absent), nil, 2},
		{"a live module that says EBUSY cannot be unloaded", true, Live,
			errs(unix.EBUSY), states(Live), ErrInUse, 1},
		{"a module that is held is in use", true, Live, errs(unix.EWOULDBLOCK), states(Live), ErrInUse, 1},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			x := index(t, map[string]string{"modules.dep": "m.ko:\n"})
			m, _ := x.Module("m")
			if err := os.WriteFile(m.Path, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			sysfs := t.TempDir()
			k := &script{t: t, dir: filepath.Join(sysfs, "module"), errs: tt.errs, states: tt.states}
			setState(t, k.dir, "m", tt.state)
			l := NewLoader(x, k, sysfs, slog.New(slog.DiscardHandler))
			var err error
			if tt.unload {
				err = l.Unload(t.Context(), "m")
			} else {
				err = l.Load(t.Context(), "m", "")
			}
			if !errors.Is(err, tt.want) || k.calls != tt.calls {
				t.Errorf("error %v after %d calls, want %v after %d", err, k.calls, tt.want, tt.calls)
			}
		})
	}
}

func TestAModuleThatStaysBusyEndsWithTheContext(t *testing.T) {
	x := index(t, map[string]string{"modules.dep": "m.ko:\n"})
	sysfs := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	k := busy{cancel}
	setState(t, filepath.Join(sysfs, "module"), "m", Leaving)
	err := NewLoader(x, k, sysfs, slog.New(slog.DiscardHandler)).Unload(ctx, "m")
	if !errors.Is(err, context.Canceled) || !errors.Is(err, unix.EBUSY) {
		t.Errorf("error %v, want the context's and the kernel's", err)
	}
}

// busy is a kernel that is always busy; the caller loses patience.
type busy struct{ cancel func() }

func (busy) InitModule(*os.File, string) error { return unix.EBUSY }

func (b busy) DeleteModule(string) error { b.cancel(); return unix.EBUSY }

func TestErrorsSayWhatTheKernelMeans(t *testing.T) {
	for errno, want := range map[unix.Errno]string{
		unix.ENOENT:       "symbol",
		unix.ENOEXEC:      "not a module for this kernel",
		unix.ENOKEY:       "not signed",
		unix.EKEYREJECTED: "signature",
		unix.EPERM:        "permits no module loading",
		unix.EINVAL:       "parameters",
		unix.ENODEV:       "no such device",
	} {
		err := error(&OpError{"load", "e1000", explain(errno)})
		if !errors.Is(err, errno) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "load module e1000: ") {
			t.Errorf("%d: %v, want it to say %q", errno, err, want)
		}
	}
}

func FuzzParseDep(f *testing.F) {
	f.Add([]byte("kernel/net/a-b.ko: kernel/c.ko.xz /extra/d.ko.zst\n# comment\n\nx.ko:\n"))
	f.Add([]byte("a.ko b.ko"))
	f.Add([]byte(":"))
	f.Fuzz(func(t *testing.T, b []byte) {
		deps, err := ParseDep(bytes.NewReader(b))
		if err != nil {
			return
		}
		x := &Index{modules: make(map[string]*Module)}
		if err := x.readDep("/lib/modules/x", bytes.NewReader(b)); err != nil {
			t.Fatalf("ParseDep accepts what readDep refuses: %v", err)
		}
		for _, d := range deps {
			if strings.ContainsAny(d.Path, "\n") || slices.Contains(d.Needs, "") {
				t.Errorf("%q", d)
			}
		}
		for name := range x.modules {
			p, err := x.Plan(name)
			if err != nil {
				continue
			}
			for i, s := range p.Steps {
				for _, j := range append(s.Needs, s.After...) {
					if j >= i {
						t.Fatalf("step %d waits for step %d", i, j)
					}
				}
			}
		}
	})
}

func FuzzParseSoftdep(f *testing.F) {
	f.Add([]byte("softdep ext4 pre: crypto-crc32c\nsoftdep vfio post: a b pre: c\nsoftdep cifs gcm\n"))
	f.Add([]byte("softdep"))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := ParseSoftdep(bytes.NewReader(b))
		if err != nil {
			return
		}
		for name, s := range all {
			if name == "" || slices.Contains(append(s.Pre, s.Post...), "") {
				t.Errorf("softdep %q %q", name, s)
			}
		}
	})
}

func FuzzParseBuiltin(f *testing.F) {
	f.Add([]byte("kernel/mm/zswap.ko\nkernel/lib/a-b.ko\n"), []byte("zbud.alias=zpool-zbud\x00a.license=GPL v2\x00"))
	f.Add([]byte("x"), []byte("=\x00"))
	f.Fuzz(func(t *testing.T, list, info []byte) {
		names, _ := ParseBuiltin(bytes.NewReader(list))
		if slices.ContainsFunc(names, func(n string) bool { return n == "" || strings.ContainsAny(n, "-/") }) {
			t.Errorf("names %q", names)
		}
		_ = ParseBuiltinModinfo(bytes.NewReader(info), func(pattern, module string) {
			if strings.Contains(pattern+module, "\x00") {
				t.Errorf("alias %q %q", pattern, module)
			}
		})
	})
}
