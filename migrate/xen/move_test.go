// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/umbra-vm/umbra/migrate"
	"github.com/umbra-vm/umbra/migrate/remote"
	"github.com/umbra-vm/umbra/migrate/xen/pcifront"
)

// A played host answers as xl would, and does to its domains what it is told.
type played struct {
	name     string
	domains  map[string]state
	free     string            // what "xl pci-assignable-list" prints
	attached string            // what "xl pci-list" prints of devices
	suspend  string            // what xenstore has of the guest's suspension
	info     string            // what "xl info" prints
	sysfs    string            // what is in there of the devices asked for
	space    string            // what od prints of a configuration space
	domain   string            // what "xl list -l" prints of its configuration
	page     string            // what "umbra pcifront" prints
	config   string            // what "xl create -n" prints
	fails    map[string]error  // by the beginning of the line; before it is done
	during   map[string]func() // by the beginning of the line

	mu       sync.Mutex
	did      []string      // lines that changed something
	appended string        // to the configuration
	started  chan struct{} // closed when it has started a domain
}

func (h *played) String() string { return h.name }

func (h *played) Run(ctx context.Context, line string, in io.Reader, out io.Writer) error {
	if at := strings.Index(line, "xl save"); at >= 0 {
		line = line[at:]
	}
	if at := strings.Index(line, "xl restore"); at >= 0 {
		line = line[at:]
	}
	if strings.HasPrefix(line, "xl save") || strings.HasPrefix(line, "xl restore") || strings.HasPrefix(line, "xl destroy") ||
		strings.HasPrefix(line, "xl unpause") || strings.HasPrefix(line, "xl pci-attach") || strings.HasPrefix(line, "xl pci-detach") || strings.HasPrefix(line, "umbra pcifront 'guest1'") {
		h.mu.Lock()
		h.did = append(h.did, h.name+": "+strings.Join(strings.Fields(line)[:2], " "))
		h.mu.Unlock()
	}
	for begin, f := range h.during {
		if strings.HasPrefix(line, begin) {
			f()
		}
	}
	for begin, err := range h.fails {
		if strings.HasPrefix(line, begin) {
			return err
		}
	}
	set := func(name, flags string) { h.domains[name] = state{h.domains[name].id, flags} }
	switch f := strings.Fields(line); {
	case line == "xl info":
		io.WriteString(out, h.info)
	case line == "xl list":
		for name, s := range h.domains {
			fmt.Fprintf(out, "%s %d 192 1 %s 1.0\n", name, s.id, s.flags)
		}
	case strings.HasPrefix(line, "xl list -l"):
		io.WriteString(out, `[{"domid":1,"config":`+h.domain+`}]`)
	case strings.HasPrefix(line, "xl pci-list"):
		io.WriteString(out, "Vdev Device\n"+h.attached)
	case strings.HasPrefix(line, "xl create"):
		io.WriteString(out, h.config)
	case strings.HasPrefix(line, "xl pci-assignable-list"):
		io.WriteString(out, h.free)
	case strings.HasPrefix(line, "cd /sys"):
		io.WriteString(out, h.sysfs)
	case line == "od -An -v -tx1 -N256 /sys/bus/pci/devices/0000:00:04.0/config":
		io.WriteString(out, h.space)
	case strings.HasPrefix(line, "xenstore-ls -f /local/domain/1/control "):
		fmt.Fprintf(out, "/local/domain/1/control/shutdown = \"\"\n/local/domain/1/control/feature-suspend = %q\n", h.suspend)
	case line == "umbra pcifront 'guest0'":
		io.WriteString(out, h.page+"\n")
	case line == "umbra pcifront 'guest1' '9:29144'":
		// Its word comes in two parts.
		io.WriteString(out, "rea")
		io.WriteString(out, "dy\n")
		select {
		case <-h.started:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		io.WriteString(out, "answered 171\n")
	case strings.HasPrefix(line, "cat >> "):
		b, err := io.ReadAll(in)
		h.appended += string(b)
		return err
	case strings.HasPrefix(line, "umask"):
		io.WriteString(out, "/run/umbra.x\n")
	case strings.HasPrefix(line, "xl save"):
		if _, err := io.WriteString(out, "all of the domain"); err != nil {
			set("guest0", "-b----") // as xl does
			return fmt.Errorf("%w: %w", remote.ErrCommand, err)
		}
		set("guest0", "--p---")
	case strings.HasPrefix(line, "xl restore"):
		if _, err := io.ReadAll(in); err != nil {
			return fmt.Errorf("%w: %w", remote.ErrCommand, err)
		}
		h.domains["guest1"] = state{9, "--p---"}
	case strings.HasPrefix(line, "xl unpause"), strings.HasPrefix(line, "xl destroy"):
		for name, s := range h.domains {
			if f[2] != fmt.Sprint(s.id) && f[2] != quote(name) {
				continue
			}
			if f[1] == "destroy" {
				delete(h.domains, name)
				continue
			}
			set(name, "-b----")
			if h.started != nil {
				close(h.started)
			}
		}
	}
	return nil
}

// running is where the guest runs: the names of the domains that do.
func (h *played) running() (names []string) {
	for name, s := range h.domains {
		if s.runs() && s.id != 0 {
			names = append(names, h.name+"/"+name)
		}
	}
	return names
}

func stage() (src, dst *played) {
	src = &played{
		name: "a", info: someInfo, domains: map[string]state{"Domain-0": {0, "r-----"}, "guest0": {1, "-b----"}},
		attached: "05.0 0000:00:04.0\n", space: someSpace(nil), domain: strings.ReplaceAll(someConfig, "guest1", "guest0"),
	}
	dst = &played{
		name: "b", info: someInfo, domains: map[string]state{"Domain-0": {0, "r-----"}},
		free: "0000:00:05.0 \n", sysfs: someSysfs, config: someConfig, started: make(chan struct{}),
	}
	return src, dst
}

// paravirtual makes the guest one that may leave the device that it has in use.
func paravirtual(src, dst *played) {
	pv := strings.NewReplacer(`"hvm"`, `"pv"`, `"b_info": {`, `"b_info": {"migrate_devices": "True", `)
	src.domain, dst.config = pv.Replace(src.domain), pv.Replace(dst.config)
	src.page = "9:29144"
}

func TestPrepare(t *testing.T) {
	refused := fmt.Errorf("%w, status 1", remote.ErrCommand)
	for _, tt := range []struct {
		rule   string
		change func(src, dst *played)
		force  bool
		want   error
		says   string
	}{
		{"nothing speaks against it", func(_, _ *played) {}, false, nil, ""},
		{"a host that does not answer", func(_, dst *played) {
			dst.fails = map[string]error{"xl info": remote.ErrLost}
		}, true, remote.ErrLost, ""},
		{"no such domain", func(src, _ *played) { delete(src.domains, "guest0") }, true, migrate.ErrNotRunning, `a has no domain "guest0"`},
		{"a domain that is paused", func(src, _ *played) { src.domains["guest0"] = state{1, "--p---"} }, true, migrate.ErrNotRunning, "is paused"},
		{"a configuration that xl refuses", func(_, dst *played) {
			dst.fails = map[string]error{"xl create": refused}
		}, true, ErrRefused, "the configuration"},
		{"a name that is taken", func(_, dst *played) { dst.domains["guest1"] = state{3, "r-----"} }, true, ErrRefused, `b has a domain "guest1"`},
		{"an older Xen", func(_, dst *played) {
			dst.info = strings.NewReplacer("xen_minor              : 17", "xen_minor : 16", "4.17.5", "4.16.1").Replace(someInfo)
		}, true, ErrRefused, "Xen 4.16.1, older"},
		{"a newer Xen is no reason", func(_, dst *played) {
			dst.info = strings.Replace(someInfo, "xen_minor              : 17", "xen_minor : 18", 1)
		}, false, nil, ""},
		{"too little memory", func(_, dst *played) {
			dst.info = strings.Replace(someInfo, ": 1743", ": 194", 1)
		}, false, ErrRefused, "194 MiB of free memory, the domain needs 195"},
		{"too little memory, and --force", func(_, dst *played) {
			dst.info = strings.Replace(someInfo, ": 1743", ": 194", 1)
		}, true, nil, ""},
		{"other memory than the domain has", func(_, dst *played) {
			dst.config = strings.Replace(someConfig, "196608", "98304", 1)
		}, true, ErrRefused, "98304 KiB"},
		{"another type of guest", func(_, dst *played) {
			dst.config = strings.Replace(someConfig, `"hvm"`, `"pv"`, 1)
		}, true, ErrRefused, "of type hvm, the configuration of type pv"},
		{"a device that is not there", func(_, dst *played) { dst.free, dst.sysfs = "", "" }, true, ErrRefused, "b has no device 0000:00:05.0"},
		{"a device that another domain has", func(_, dst *played) { dst.free = "" }, true, ErrRefused, "in use by another domain"},
		{"a device that dom0 has", func(_, dst *played) {
			dst.free, dst.sysfs = "", strings.Replace(someSysfs, "pciback", "8139cp", 1)
		}, true, ErrRefused, "xl pci-assignable-add 0000:00:05.0"},
		{"a device that dom0 has, which is to be seized", func(_, dst *played) {
			dst.free, dst.sysfs = "", strings.Replace(someSysfs, " pciback", "", 1)
			dst.config = strings.Replace(someConfig, `"dev": 5`, `"dev": 5, "seize": true`, 1)
		}, false, nil, ""},
		{"a device that cannot be reset", func(_, dst *played) {
			dst.sysfs = strings.Replace(someSysfs, " 0 pciback", " 1 pciback", 1)
		}, false, ErrRefused, "device 0000:00:05.0 cannot be reset"},
		{"a device that cannot be reset, and --force", func(_, dst *played) {
			dst.sysfs = strings.Replace(someSysfs, " 0 pciback", " 1 pciback", 1)
		}, true, nil, ""},
		{"a guest that takes part in its suspension, with a device in use", func(src, _ *played) { src.suspend = "1" }, false, ErrRefused, "xen_nopv"},
		{"a guest that takes part in its suspension, and --force", func(src, _ *played) { src.suspend = "1" }, true, nil, ""},
		{"a guest that takes part in its suspension, without a device", func(src, _ *played) {
			src.suspend, src.attached = "1", ""
		}, false, nil, ""},
		{"a device that interrupts by a line, and none in its slot", func(src, _ *played) {
			src.space = someSpace(withoutMSIX)
		}, false, ErrRefused, "the guest's device at 0000:00:05.0 interrupts by a line"},
		{"a device that interrupts by a line, and another one in its slot", func(src, dst *played) {
			src.space = someSpace(withoutMSIX)
			dst.config = strings.Replace(someConfig, `"vdevfn": 48`, `"vdevfn": 40`, 1)
		}, false, nil, ""},
		{"a device that interrupts by a line, and a Xen that does not save it", func(src, _ *played) {
			src.space = someSpace(withoutMSIX)
			src.domain = strings.Replace(src.domain, `"b_info": {`, `"b_info": {"migrate_devices": "True", `, 1)
		}, false, nil, ""},
		{"a paravirtual guest with a device in use, which may not leave it", func(src, dst *played) {
			paravirtual(src, dst)
			dst.config = strings.Replace(dst.config, `"migrate_devices": "True", `, "", 1)
		}, false, ErrRefused, "migrate_devices = 1 in both"},
		{"a paravirtual guest with a device in use, and no umbra on the destination", func(src, dst *played) {
			paravirtual(src, dst)
			dst.fails = map[string]error{"umbra": refused}
		}, false, ErrRefused, "have umbra on both hosts"},
		{"a page that is none", func(src, dst *played) {
			paravirtual(src, dst)
			src.page = "?"
		}, false, pcifront.ErrPage, "a: umbra pcifront"},
		{"a configuration space that is cut off", func(src, _ *played) { src.space = src.space[:60] }, true, ErrOutput, "device 0000:00:04.0"},
		{"output that is not xl's", func(_, dst *played) { dst.info = "?" }, true, ErrOutput, "xl info"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			src, dst := stage()
			tt.change(src, dst)
			p, err := Prepare(t.Context(), src, dst, Options{Domain: "guest0", Force: tt.force})
			if !errors.Is(err, tt.want) || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("error %v, want %v with %q", err, tt.want, tt.says)
			}
			if len(src.did)+len(dst.did) > 0 {
				t.Errorf("it has done %q %q", src.did, dst.did)
			}
			if err != nil {
				return
			}
			d, at := p.Devices[0], "0000:00:06.0"
			if strings.Contains(dst.config, `"vdevfn": 40`) {
				at = "0000:00:05.0"
			}
			if d.Address != at || d.Vendor != 0x10ec || d.Device != 0x8139 || d.SubVendor != 0x1af4 || d.Class != 0x200 {
				t.Errorf("device %+v", d)
			}
			leaves := []string{"0000:00:05.0"}
			if src.attached == "" {
				leaves = nil
			}
			if !slices.Equal(p.Leaves, leaves) || p.SourceCtl != "/run/xen/umbra-guest0.ctl" {
				t.Errorf("%q stay behind, the source's port is %q", p.Leaves, p.SourceCtl)
			}
		})
	}
}

func TestMove(t *testing.T) {
	refused := fmt.Errorf("%w, status 1", remote.ErrCommand)
	whole := []string{"a: xl save", "b: xl restore", "b: xl unpause", "a: xl destroy"}
	for _, tt := range []struct {
		rule   string
		change func(src, dst *played, interrupt func())
		want   error
		runs   []string // where
		did    []string // by both sides, the source's first where they work at once
		says   string
	}{
		{"the guest moves", func(_, _ *played, _ func()) {}, nil, []string{"b/guest1"}, whole, ""},
		{"a restore that fails: the source's copy goes on", func(_, dst *played, _ func()) {
			dst.fails = map[string]error{"xl restore": refused}
		}, remote.ErrCommand, []string{"a/guest0"}, nil, "running on the source, not there on the destination"},
		{"a restore that leaves a half: it is destroyed", func(_, dst *played, _ func()) {
			dst.fails = map[string]error{"xl restore": refused}
			dst.during = map[string]func(){"xl restore": func() { dst.domains["guest1"] = state{9, "--p---"} }}
		}, remote.ErrCommand, []string{"a/guest0"}, nil, "not there on the destination"},
		{"a save that fails", func(src, _ *played, _ func()) {
			src.fails = map[string]error{"xl save": refused}
		}, remote.ErrCommand, []string{"a/guest0"}, nil, "running on the source"},
		{"an interrupt while the stream runs", func(src, _ *played, interrupt func()) {
			src.during = map[string]func(){"xl save": interrupt}
		}, errInterrupt, []string{"a/guest0"}, nil, "running on the source"},
		{"an interrupt after the point of no return is too late", func(_, dst *played, interrupt func()) {
			dst.during = map[string]func(){"xl unpause": interrupt}
		}, nil, []string{"b/guest1"}, whole, ""},
		{"a start that is refused", func(_, dst *played, _ func()) {
			dst.fails = map[string]error{"xl unpause": refused}
		}, remote.ErrCommand, []string{"a/guest0"},
			[]string{"a: xl save", "b: xl restore", "b: xl unpause", "b: xl destroy", "a: xl unpause"}, "not there on the destination"},
		{"a destination that is lost before the start: the source goes on", func(_, dst *played, _ func()) {
			dst.fails = map[string]error{"xl restore": remote.ErrLost, "xl list": remote.ErrLost}
		}, remote.ErrLost, []string{"a/guest0"}, nil, "in a state that is not known on the destination"},
		{"a destination that is lost with the start: nobody runs it twice", func(_, dst *played, _ func()) {
			dst.fails = map[string]error{"xl unpause": remote.ErrLost}
		}, migrate.ErrUnknownOutcome, nil, []string{"a: xl save", "b: xl restore", "b: xl unpause", "b: xl unpause", "b: xl unpause"},
			"if it does not run on the destination, destroy it there, and then on a: xl unpause 'guest0'"},
		{"a source that is lost", func(src, _ *played, _ func()) {
			src.fails = map[string]error{"xl save": remote.ErrLost, "xl list": remote.ErrLost}
		}, migrate.ErrSourceNotResumed, []string{"a/guest0"}, nil, "to get it back, on a: xl unpause 'guest0'"},
		{"a source that is lost when the guest has gone", func(src, _ *played, _ func()) {
			src.fails = map[string]error{"xl destroy": remote.ErrLost}
		}, ErrSourceLeft, []string{"b/guest1"}, whole, "to remove the copy, on a: xl destroy 1"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			src, dst := stage()
			p, err := Prepare(t.Context(), src, dst, Options{Domain: "guest0"})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			tt.change(src, dst, func() { cancel(errInterrupt) })
			r, err := p.Move(ctx)
			if !errors.Is(err, tt.want) || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want %v with %q", err, tt.want, tt.says)
			}
			if moved := slices.Equal(tt.runs, []string{"b/guest1"}); moved != (r != nil) {
				t.Errorf("report %+v", r)
			}
			if r != nil && (r.Bytes != int64(len("all of the domain")) || r.Left != 1) {
				t.Errorf("report %+v", r)
			}
			if diff := cmp.Diff(tt.runs, append(src.running(), dst.running()...)); diff != "" {
				t.Errorf("who runs it (-want +got):\n%s", diff)
			}
			if tt.did == nil {
				return
			}
			got := append(slices.Clone(src.did), dst.did...)
			slices.Sort(got)
			want := slices.Clone(tt.did)
			slices.Sort(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("what was done (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMoveOfParavirtualGuest(t *testing.T) {
	refused := fmt.Errorf("%w, status 1", remote.ErrCommand)
	here := []string{"a/guest0"}
	renewed := []string{"a: xl save", "a: xl unpause", "a: told of 0000:00:00.0", "a: xl pci-detach", "a: xl pci-attach"}
	for _, tt := range []struct {
		rule  string
		fails string // of what the destination does
		want  error
		runs  []string
		did   []string // by the destination
		back  []string // by the source
		says  string
	}{
		{"it is answered before it runs, and given its devices after", "", nil, []string{"b/guest1"},
			[]string{"b: xl restore", "b: umbra pcifront", "b: xl unpause", "b: xl pci-attach"}, []string{"a: xl save", "a: xl destroy"}, ""},
		{"one that nobody answers goes on where it was, with its devices given to it anew", "umbra pcifront 'guest1'", remote.ErrCommand, here,
			[]string{"b: xl restore", "b: umbra pcifront", "b: xl destroy"}, renewed, "answering for the guest's devices"},
		{"one that is not restored", "xl restore", remote.ErrCommand, here,
			[]string{"b: xl restore"}, []string{"a: xl save", "a: told of 0000:00:00.0", "a: xl pci-detach", "a: xl pci-attach"}, ""},
		{"one that gets no device runs on", "xl pci-attach", ErrNoDevices, []string{"b/guest1"},
			[]string{"b: xl restore", "b: umbra pcifront", "b: xl unpause", "b: xl pci-attach"}, []string{"a: xl save", "a: xl destroy"},
			"to give it 0000:00:05.0, on b: xl pci-attach 'guest1' 0000:00:05.0"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			src, dst := stage()
			paravirtual(src, dst)
			p, err := Prepare(t.Context(), src, dst, Options{
				Domain: "guest0",
				Unplug: func(_ context.Context, address string, _ time.Duration) error {
					src.did = append(src.did, "a: told of "+address)
					return errors.New("nobody hears it") // which is no reason to leave it without
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(dst.appended, "\npci = []\n") {
				t.Errorf("it is restored with %q", dst.appended)
			}
			if tt.fails != "" {
				dst.fails = map[string]error{tt.fails: refused}
			}
			_, err = p.Move(t.Context())
			if !errors.Is(err, tt.want) || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want %v with %q", err, tt.want, tt.says)
			}
			if diff := cmp.Diff(tt.runs, append(src.running(), dst.running()...)); diff != "" {
				t.Errorf("who runs it (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.did, dst.did); diff != "" {
				t.Errorf("what the destination did (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.back, src.did); diff != "" {
				t.Errorf("what the source did (-want +got):\n%s", diff)
			}
		})
	}
}

var errInterrupt = errors.New("interrupted")
