// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/internal/cgroup"
	"github.com/umbra-vm/umbra/init/internal/confine"
	"github.com/umbra-vm/umbra/init/internal/supervise"
	"github.com/umbra-vm/umbra/init/notify"
)

// allowed are the modules the guest's binary may be made of, beside the
// standard library and umbra itself. Whatever is added here is added to PID 1.
var allowed = []string{
	"github.com/beevik/ntp",
	"github.com/cilium/ebpf",
	"github.com/crewjam/rfc5424",
	"github.com/insomniacslk/dhcp",
	"github.com/josharian/native",
	"github.com/klauspost/compress",
	"github.com/mdlayher/ethtool",
	"github.com/mdlayher/genetlink",
	"github.com/mdlayher/kobject",
	"github.com/mdlayher/netlink",
	"github.com/mdlayher/packet",
	"github.com/mdlayher/socket",
	"github.com/pelletier/go-toml/v2",
	"github.com/pierrec/lz4/v4", // by u-root/uio
	"github.com/safchain/ethtool",
	"github.com/u-root/u-root",
	"github.com/u-root/uio",
	"github.com/ulikunitz/xz",
	"github.com/vishvananda/netlink",
	"github.com/vishvananda/netns",
	"golang.org/x/net",
	"golang.org/x/sync",
	"golang.org/x/sys",
	"kernel.org/pub/linux/libs/security/libcap/cap",
	"kernel.org/pub/linux/libs/security/libcap/psx",
}

// heavy are packages of the standard library that would double the binary.
var heavy = []string{"net/http", "crypto/tls", "html/template", "text/template", "testing"}

func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if .Module}}{{.Module.Path}}{{end}} {{.ImportPath}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		module, pkg := "", fields[len(fields)-1]
		if len(fields) == 2 {
			module = fields[0]
		}
		switch {
		case module == "":
			if slices.Contains(heavy, pkg) {
				t.Errorf("%s is in the guest's binary", pkg)
			}
		case module == "github.com/umbra-vm/umbra":
			for _, host := range []string{"/image", "/migrate", "/ci", "/cmd"} {
				if strings.HasPrefix(pkg, module+host) {
					t.Errorf("%s is the host's and in the guest's binary", pkg)
				}
			}
		case !slices.Contains(allowed, module):
			t.Errorf("module %s (package %s) is not on the list", module, pkg)
		}
	}
}

func TestSpecs(t *testing.T) {
	cfg := &config.Config{
		Roles: []config.Role{{Name: "net0", Class: config.ClassNet}},
		Services: []config.Service{{
			Name: "app", Argv: []string{"/bin/app", "-v"}, Env: []string{"K=V"}, Dir: "/data", Needs: []string{"net0"},
			Restart: config.RestartOnFailure, Backoff: config.Backoff{Min: 50, Max: 1000}, StopTimeout: 5000,
		}},
	}
	got := specs(cfg)
	var names []string
	for _, s := range got {
		names = append(names, s.Name)
	}
	if diff := cmp.Diff([]string{"shadowd", "netcfgd", "app"}, names); diff != "" {
		t.Fatalf("programs in the order of their start (-want +got):\n%s", diff)
	}
	want := supervise.Spec{
		Name: "app", Path: "/bin/app", Argv: []string{"/bin/app", "-v"}, Env: []string{"K=V"}, Dir: "/data",
		Needs: []string{"net0", "net0/recorded"}, Provides: "app/ready",
		Restart: supervise.OnFailure, Backoff: supervise.Backoff{Min: 50 * time.Millisecond, Max: time.Second},
		Stage: stageServices, StopTimeout: 5 * time.Second, Limits: new(cgroup.Limits),
	}
	if diff := cmp.Diff(want, got[2]); diff != "" {
		t.Errorf("the service (-want +got):\n%s", diff)
	}
	cfg.Shadow = config.Off
	if diff := cmp.Diff([]string{"net0"}, specs(cfg)[2].Needs); diff != "" {
		t.Errorf("needs where nothing is recorded (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([][]string{{"app"}, {"netcfgd"}, {"shadowd"}}, supervise.StopOrder(got)); diff != "" {
		t.Errorf("order of the stop (-want +got):\n%s", diff)
	}
	for _, s := range got {
		if s.KeepsFDs != (s.Name == "shadowd") {
			t.Errorf("%s is lent descriptors: %t", s.Name, s.KeepsFDs)
		}
		if isDaemon(s.Name) && (s.Restart != supervise.Always || s.OOMScoreAdj >= 0) {
			t.Errorf("%s is not kept alive: %+v", s.Name, s)
		}
	}
}

// TestOurOwnProgramsHaveNamesOfTheirOwn: what PID 1 does for a program it does by its name.
func TestOurOwnProgramsHaveNamesOfTheirOwn(t *testing.T) {
	all := &config.Config{
		Status: config.StatusPage{Listen: ":9100"}, Log: config.Log{Syslog: "udp://192.0.2.1"}, Data: config.Data{Serial: "d"},
	}
	names := []string{deployProgram, "shell"}
	for _, s := range specs(all) {
		names = append(names, s.Name)
		if !isDaemon(s.Name) {
			t.Errorf("%s is not known as ours", s.Name)
		}
	}
	for _, name := range names {
		_, err := config.Load(strings.NewReader(`{"services":[{"name":"` + name + `","argv":["/s"]}]}`))
		if !errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), "services[0].name") {
			t.Errorf("a service is called %s: %v", name, err)
		}
	}
}

func TestSpecOfAConfinedService(t *testing.T) {
	cfg := &config.Config{
		Log: config.Log{Syslog: "udp://10.0.2.2"},
		Services: []config.Service{
			{Name: "prepare", Argv: []string{"/bin/prepare"}, Type: config.TypeOneshot},
			{
				Name: "app", Argv: []string{"/bin/app", "-v"}, Env: []string{"HOME=/data"}, Needs: []string{"prepare"},
				User:   &config.User{UID: 101, GID: 102, Groups: []int{5}, Name: "app", Home: "/var/lib/app"},
				Limits: config.Limits{MemoryMB: 64, CPUPercent: 50, CPUWeight: 10, PIDs: 7},
			},
		},
	}
	cfg.SetDefaults()
	got := specs(cfg)
	app := got[len(got)-1]
	if diff := cmp.Diff([]string{"prepare/ready"}, app.Needs); diff != "" {
		t.Errorf("needs (-want +got):\n%s", diff)
	}
	if !got[len(got)-2].Oneshot || app.Oneshot {
		t.Error("prepare is the oneshot of the two")
	}
	if diff := cmp.Diff(&cgroup.Limits{Memory: 64 << 20, CPUPercent: 50, CPUWeight: 10, PIDs: 7}, app.Limits); diff != "" {
		t.Errorf("limits (-want +got):\n%s", diff)
	}
	want := confine.Spec{Name: "app", User: &confine.User{UID: 101, GID: 102, Groups: []int{5}}, NoNewPrivileges: true}
	if diff := cmp.Diff(want.Args("/bin/app", []string{"/bin/app", "-v"}), app.Argv); diff != "" || app.Path != "/sbin/exec-service" {
		t.Errorf("%s is started with (-want +got):\n%s", app.Path, diff)
	}
	if diff := cmp.Diff([]string{"USER=app", "LOGNAME=app", "HOME=/var/lib/app", "HOME=/data"}, app.Env); diff != "" {
		t.Errorf("environment, of which the last counts (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([][]string{{"app"}, {"prepare"}, {"logd"}, {"netcfgd"}, {"shadowd"}}, supervise.StopOrder(got)); diff != "" {
		t.Errorf("order of the stop (-want +got):\n%s", diff)
	}
}

func TestOnlyAGuestOnADiskWithVersionsHasThemProved(t *testing.T) {
	for _, tt := range []struct {
		rule, cmdline string
		want          []string
	}{
		{"booted from a version", "umbra.slot=app-1.2", []string{"shadowd", "netcfgd", "update"}},
		{"booted by a hypervisor", "quiet", []string{"shadowd", "netcfgd"}},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			cfg := new(config.Config)
			if err := cfg.Override(tt.cmdline); err != nil {
				t.Fatal(err)
			}
			cfg.SetDefaults()
			var names []string
			for _, s := range specs(cfg) {
				names = append(names, s.Name)
				if s.Name == config.UpdateName && (!s.Oneshot || s.Restart != supervise.OnFailure || s.OOMScoreAdj >= 0 || !isDaemon(s.Name)) {
					t.Errorf("spec %+v: want one that is kept alive until it is done", s)
				}
			}
			if diff := cmp.Diff(tt.want, names); diff != "" {
				t.Errorf("programs (-want +got):\n%s", diff)
			}
			if u := lookAtUpdate(cfg); (u != nil) != (len(tt.want) == 3) {
				t.Errorf("the agent tells of versions: %+v", u)
			}
		})
	}
}

func TestPolicyNamesAgree(t *testing.T) {
	for c, s := range map[config.Restart]supervise.Policy{
		config.RestartAlways: supervise.Always, config.RestartOnFailure: supervise.OnFailure, config.RestartNever: supervise.Never,
	} {
		if supervise.Policy(c) != s {
			t.Errorf("policy %q of the configuration is not %q of the supervisor", c, s)
		}
	}
}

func TestShadowctlRefusesWhatItDoesNotUnderstand(t *testing.T) {
	for _, tt := range []struct{ name, line string }{
		{"no command", ""},
		{"an unknown command", "frobnicate"},
		{"status takes no role", "status net0"},
		{"logs are one program's or all", "logs a b"},
		{"reload needs one", "reload"},
		{"one role at most", "timeline net0 net1"},
		{"check needs a device", "check"},
		{"an update has a sum", "update app.efi"},
		{"which is one", "update app.efi 1234"},
		{"and one that it can read", "check 8086:100e"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			err := shadowctlRun(context.Background(), &out, strings.Fields(tt.line), false)
			if !errors.Is(err, errUsage) || out.Len() != 0 {
				t.Errorf("error %v, output %q", err, out.String())
			}
		})
	}
	var out bytes.Buffer
	if err := shadowctlRun(context.Background(), &out, []string{"help"}, false); err != nil || out.String() != shadowctlUsage {
		t.Errorf("help says %q, %v", out.String(), err)
	}
}

func TestShadowctlFlags(t *testing.T) {
	for line, want := range map[string]string{"status --json": "status", "--json log net0": "log net0", "-json timeline": "timeline"} {
		asJSON, words := shadowctlFlags(strings.Fields(line))
		if got := strings.Join(words, " "); !asJSON || got != want {
			t.Errorf("%q: json %t, words %q", line, asJSON, got)
		}
	}
}

func TestTheStatusPageIsOffUnlessAskedFor(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status config.StatusPage
		argv   string // none if empty
		needs  []string
	}{
		{"nobody asked", config.StatusPage{}, "", nil},
		{"on the loopback interface", config.StatusPage{Listen: "127.0.0.1:9100"},
			"/sbin/statusd -listen 127.0.0.1:9100 -agent /run/umbra/look.sock", nil},
		{"for a role, when its network is up", config.StatusPage{Role: "net0"},
			"/sbin/statusd -listen :9100 -agent /run/umbra/look.sock -interface net0", []string{"net0", "net0/recorded"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := &config.Config{Status: tt.status, Roles: []config.Role{{Name: "net0", Class: config.ClassNet}}}
			cfg.SetDefaults()
			var argv string
			var needs []string
			for _, s := range specs(cfg) {
				if s.Name != statusd {
					continue
				}
				argv, needs = strings.Join(s.Argv[3:], " "), s.Needs
				if s.KeepsFDs || s.OOMScoreAdj <= 0 || s.Restart != supervise.Always || s.Limits.Memory == 0 {
					t.Errorf("spec %+v", s)
				}
				least := confine.Spec{
					Name: statusd, User: &confine.User{UID: 65533, GID: 65533}, Capabilities: []string{},
					NoNewPrivileges: true, ReadOnlyRoot: true,
				}
				if diff := cmp.Diff(least.Args("/sbin/statusd", nil), s.Argv[:3]); diff != "" || s.Path != "/sbin/exec-service" {
					t.Errorf("%s may (-want +got):\n%s", s.Path, diff)
				}
			}
			if argv != tt.argv {
				t.Errorf("started as %q, want %q", argv, tt.argv)
			}
			if diff := cmp.Diff(tt.needs, needs); diff != "" {
				t.Errorf("needs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRenderServices(t *testing.T) {
	var out strings.Builder
	err := renderServices(&out, &notify.Status{Faults: []string{"fw_cfg x: line 1: a: no such key"}, Services: []notify.Service{
		{Name: "app", State: "running", PID: 71, For: 90 * time.Second, Starts: 2, LastExit: "exit code 1"},
		{Name: "once", State: "waiting"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := "" +
		"not started, the configuration was refused: fw_cfg x: line 1: a: no such key\n" +
		"SERVICE  STATE    PID  FOR    STARTS  LAST END\n" +
		"app      running  71   1m30s  2       exit code 1\n" +
		"once     waiting  -    -      0       -\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

// docs/security.md has the table of privileges, and says what each is for.
func TestPrivilegesAreTold(t *testing.T) {
	text, err := os.ReadFile("../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range privileges {
		row := regexp.MustCompile("(?m)^\\| `" + name + "` \\|([^|]*)\\|([^|]+)\\|$").FindStringSubmatch(string(text))
		if row == nil {
			t.Errorf("%s is not in the table", name)
			continue
		}
		if diff := cmp.Diff(want, regexp.MustCompile(`CAP_\w+`).FindAllString(row[1], -1), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-code +document):\n%s", name, diff)
		}
		if programs()[name] == nil {
			t.Errorf("%s is no program", name)
		}
	}
}
