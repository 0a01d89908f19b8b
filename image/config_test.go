// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/umbra-vm/umbra/image/machine"
	"github.com/umbra-vm/umbra/init/config"
)

const description = `# an appliance
[image]
hostname = "box"
compression = "xz"
cmdline = "mitigations=auto"
files = ["motd:/etc/motd"]

[kernel]
deb = "linux.deb"

[drivers]
classes = ["qemu-net"]
modules = ["igbvf"]

[[role]]
name = "net0"
class = "net"
match = { mac = "52:54:00:12:34:56" }
network = { method = "static", addresses = ["10.0.2.15/24"], gateway = "10.0.2.2" }

[[role]]
name = "net1"
class = "net"

[[service]]
name = "app"
exec = ["/bin/app", "-v"]
files = ["app:/bin/app"]
needs = ["net0"]
restart = "on-failure"
backoff_ms = { min = 50 }

[machine]
memory_mb = 512
type = "q35"
`

func TestParse(t *testing.T) {
	c, err := Parse("/srv/box.toml", []byte(description))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Image{
		Name: "box", Hostname: "box", Compression: XZ, Cmdline: "mitigations=auto", Files: []string{"motd:/etc/motd"},
	}, c.Image); diff != "" {
		t.Errorf("image (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(MachineDefaults{MemoryMB: 512, CPUs: 1, Type: machine.Q35, NIC: "e1000"}, c.Machine); diff != "" {
		t.Errorf("machine (-want +got):\n%s", diff)
	}
	want := []fileSpec{
		{"image.files[0]", "/srv/motd", "/etc/motd"},
		{"service[0].files[0]", "/srv/app", "/bin/app"},
	}
	files, err := c.files()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, files, cmp.AllowUnexported(fileSpec{})); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	guest := c.guest(&selection{boot: []string{"tun"}, prefetch: []string{"igbvf"}})
	if guest.Roles[1].Network.Method != "" {
		t.Errorf("role without network: %+v, want it to be left to what is said at deploy time", guest.Roles[1].Network)
	}
	if s := guest.Services[0]; s.Backoff != (config.Backoff{Min: 50}) || s.Argv[0] != "/bin/app" {
		t.Errorf("service became %+v", s)
	}
	if got, want := c.cmdline(), "console=ttyS0 panic=-1 quiet module.sig_enforce=1 mitigations=auto"; got != want {
		t.Errorf("command line %q, want %q", got, want)
	}
}

func TestDefaultsOfAnEmptyDescription(t *testing.T) {
	c, err := Parse("/srv/app.toml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Image.Name != "app" || c.Image.Compression != Zstd || c.Kernel.Package != "linux-image-amd64" || c.Drivers.Classes[0] != "qemu-net" {
		t.Errorf("defaults: %+v", c)
	}
}

func TestExampleShowsEveryKeyAndIsValid(t *testing.T) {
	if _, err := Parse("app.toml", []byte(Example)); err != nil {
		t.Errorf("as it is: %v", err)
	}
	// With every key that is commented out, the alternatives of kernel aside.
	whole := regexp.MustCompile(`(?m)^#(\[|[a-z_]+ = )`).ReplaceAllString(Example, "$1")
	whole = regexp.MustCompile(`(?m)^(deb|vmlinuz|modules) = "[^"]*linux[^"]*".*|^(vmlinuz|modules) = "/.*`).ReplaceAllString(whole, "")
	whole = strings.Replace(whole, "outputs = []", `outputs = ["disk"]`, 1) // where slots and partitions are
	whole = strings.Replace(whole, `partition = ""`, `partition = "data"`, 1)
	if _, err := Parse("app.toml", []byte(whole)); err != nil {
		t.Errorf("with everything in it: %v", err)
	}
	var keys func(typ reflect.Type)
	keys = func(typ reflect.Type) {
		switch typ.Kind() {
		case reflect.Slice:
			keys(typ.Elem())
		case reflect.Struct:
			for f := range typ.Fields() {
				key := f.Tag.Get("toml")
				if key == "" {
					continue
				}
				if !regexp.MustCompile(`(?m)(^#?|[{,] )(` + key + ` =|\[+(role\.)?` + key + `\])`).MatchString(Example) {
					t.Errorf("%s.%s: no key %s in the example", typ.Name(), f.Name, key)
				}
				keys(f.Type)
			}
		}
	}
	keys(reflect.TypeFor[Config]())
}

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       string // beginning of the message, with file, line and key
	}{
		{"what is not TOML", "[image\n", "app.toml:1: "},
		{"a key it does not know", "[image]\nhostnam = 'x'\n", "app.toml:2: image.hostnam: no such key"},
		{"a table it does not know", "\n[imag]\nname = 'x'\n", "app.toml:2: imag: no such key"},
		{"a value of another type", "[image]\n\nhostname = 5\n", "app.toml:3: image.hostname: "},
		{"a compression the kernel lacks", "[image]\ncompression = 'rar'\n", `app.toml:2: image.compression: "rar": `},
		{"a name that would leave the directory", "[image]\nname = '../x'\n", "app.toml:2: image.name: "},
		{"a partition without a name", "[image]\noutputs = [\"disk\"]\ndata_mb = 64\n", "app.toml:3: image.data_mb: the partition has no name"},
		{"a partition with another's name", "[image]\noutputs = [\"disk\"]\ndata_mb = 64\n[data]\npartition = \"umbra-slots\"\n",
			`app.toml:5: data.partition: "umbra-slots"`},
		{"a partition of no disk", "[image]\ndata_mb = 64\n[data]\npartition = \"data\"\n", "app.toml:2: image.data_mb: no disk"},
		{"a partition without room for a journal", "[image]\noutputs = [\"disk\"]\ndata_mb = 2\n[data]\npartition = \"data\"\n",
			"app.toml:3: image.data_mb: 2: want at least 8"},
		{"a version by the command line", "[image]\ncmdline = \"quiet umbra.slot=app-1\"\n", "app.toml:2: image.cmdline: umbra.slot= is"},
		{"a partition of the versions for data", "[image]\noutputs = [\"disk\"]\n[update]\nversion = \"1\"\n[data]\npartition = \"umbra-slots\"\n",
			`app.toml:6: data.partition: "umbra-slots"`},
		{"slots with nothing to be on", "[update]\nversion = \"1\"\n", "app.toml:2: update.version: nothing has slots"},
		{"a version that loaders would put in another order", "[image]\noutputs = [\"disk\"]\n[update]\nversion = \"1.0-rc1\"\n",
			`app.toml:4: update.version: "1.0-rc1"`},
		{"an update of no version", "[update]\ntimeout_s = 60\n", "app.toml:1: update.version: missing"},
		{"an update without time", "[image]\noutputs = [\"disk\"]\n[update]\nversion = \"1\"\nsettle_s = 300\n", "app.toml:3: update.timeout_s: "},
		{"a lockdown that is none", "[security]\nlockdown = \"on\"\n", `app.toml:2: security.lockdown: "on": want one of [off integrity]`},
		{"modules that are neither", "[security]\nmodules = \"some\"\n", `app.toml:2: security.modules: "some": want one of [signed any]`},
		{"any module in lockdown", "[security]\nmodules = \"any\"\nlockdown = \"integrity\"\n", `app.toml:2: security.modules: "any": a kernel in lockdown`},
		{"a command line of two lines", "[image]\ncmdline = \"a\\nb\"\n", "app.toml:2: image.cmdline: "},
		{"an output there is not", "[image]\noutputs = ['uki',\n'vhd']\n", `app.toml:3: image.outputs[1]: "vhd": want some of [uki disk qcow2 iso]`},
		{"a signature on nothing", "[image]\nsign = ['s', '{in}', '{out}']\n", "app.toml:2: image.sign: nothing to sign"},
		{"a signer that is not told what to sign", "[image]\noutputs = ['uki']\nsign = ['s', '{out}']\n", "app.toml:3: image.sign: "},
		{"a device by its slot alone", "[machine]\nhostdevs = ['03:10.0']\n", `app.toml:2: machine.hostdevs[0]: "03:10.0": `},
		{"a file without destination", "[image]\nfiles = ['a:/a',\n  'b']\n", `app.toml:3: image.files[1]: "b": `},
		{"a relative destination", "[[service]]\nname = 's'\nexec = ['/s']\nfiles = ['s:s']\n", "app.toml:4: service[0].files[0]: "},
		{"a class there is not, with a hint", "[drivers]\nclasses = ['qemu-nets']\n", `app.toml:2: drivers.classes[0]: "qemu-nets": no such class (did you mean qemu-net?)`},
		{"two kernels", "[kernel]\npackage = 'a'\ndeb = 'b'\n", "app.toml:1: kernel: "},
		{"a kernel without modules", "[kernel]\nvmlinuz = 'a'\n", "app.toml:1: kernel: "},
		{"a machine too small to boot", "[machine]\nmemory_mb = 16\n", "app.toml:2: machine.memory_mb: "},
		{"an unknown machine", "[machine]\ntype = 'microvm'\n", "app.toml:2: machine.type: "},
		{"a fault that only the guest would see", "[[role]]\nname = 'a'\nclass = 'net'\n[[role]]\nname = 'b'\nclass = 'net'\n[role.network]\nmethod = 'static'\n",
			"app.toml:7: role[1].network.addresses: "},
		{"a fault in an inline table", "[[role]]\nname = 'a'\nclass = 'net'\nnetwork = { gateway = 'x' }\n", `app.toml:4: role[0].network.gateway: "x": `},
		{"a program without a path", "[[service]]\nname = 's'\nexec = ['s']\n", `app.toml:3: service[0].exec[0]: "s": `},
		{"a need no role meets", "[[service]]\nname = 's'\nexec = ['/s']\nneeds = [\n'net0']\n", `app.toml:5: service[0].needs[0]: "net0": `},
		{"services that wait for each other", "[[service]]\nname = 'a'\nexec = ['/a']\nneeds = ['b']\n[[service]]\nname = 'b'\nexec = ['/b']\nneeds = ['a']\n",
			`app.toml:4: service[0].needs[0]: "b": a waits for itself: a needs b needs a`},
		{"groups of nobody", "[[service]]\nname = 's'\nexec = ['/s']\ngroups = ['tty']\n", "app.toml:4: service[0].groups: "},
		{"a capability there is not", "[[service]]\nname = 's'\nexec = ['/s']\ncapabilities = ['CAP_ALL']\n", `app.toml:4: service[0].capabilities[0]: "CAP_ALL": `},
		{"a syslog server without an address", "[log]\nsyslog = 'udp://logs'\n", `app.toml:2: log.syslog: "udp://logs": `},
		{"a time server that is none", "[ntp]\nservers = ['a b']\n", `app.toml:2: ntp.servers[0]: "a b": `},
		{"a host name that is none", "[image]\nhostname = 'a b'\n", "app.toml:2: image.hostname: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse("app.toml", []byte(tt.text))
			if err == nil {
				t.Fatalf("accepted as %+v", c)
			}
			if !errors.Is(err, ErrConfig) {
				t.Errorf("error %v is not ErrConfig", err)
			}
			if !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("error %q\ndoes not start %q", err, tt.want)
			}
		})
	}
}

func TestParseReportsEveryFault(t *testing.T) {
	_, err := Parse("app.toml", []byte("[image]\nnam = 1\nhostnam = 2\n"))
	if err == nil || len(strings.Split(err.Error(), "\n")) != 2 {
		t.Errorf("unknown keys: %v, want two lines", err)
	}
	_, err = Parse("app.toml", []byte("[image]\ncompression = 'rar'\n[machine]\ncpus = -1\n"))
	if err == nil || len(strings.Split(err.Error(), "\n")) != 2 {
		t.Errorf("bad values: %v, want two lines", err)
	}
}

func TestLoadOfAMissingFile(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none.toml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want os.ErrNotExist", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(description))
	f.Add([]byte("[[role]]\n[role.match]\nmac='x'\n[[role]]\nname='a'\n"))
	f.Add([]byte("[[service]]\nexec=[\n# comment\n'/a', # b\n]\n"))
	f.Add([]byte("image.name='x'\nimage.files=[]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse("app.toml", text)
		if err != nil {
			if !errors.Is(err, ErrConfig) {
				t.Fatalf("error %v is not ErrConfig", err)
			}
			if !strings.HasPrefix(err.Error(), "app.toml") {
				t.Fatalf("error %q does not name the file", err)
			}
			return
		}
		g := c.guest(new(selection))
		g.SetDefaults()
		if err := g.Validate(); err != nil {
			t.Fatalf("accepted, but the guest would refuse it: %v", err)
		}
	})
}
