// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package deploy

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/umbra-vm/umbra/drivers/xenstore"
	"github.com/umbra-vm/umbra/drivers/xenstore/xenstoretest"
	"github.com/umbra-vm/umbra/init/config/overlay"
)

const image = `{"hostname": "built", "roles": [{"name": "net0", "class": "net"}], "services": [{"name": "app", "argv": ["/bin/app"]}]}`

var quiet = slog.New(slog.DiscardHandler)

// write makes files below dir, by their paths.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// said is a source that has one document, or an error.
func said(name, text string) Source {
	return func(context.Context, *slog.Logger) ([]*overlay.Document, error) {
		return parse([]found{{name, []byte(text)}})
	}
}

func gatherAll(cmdline string, sources ...Source) Result {
	return Gather(context.Background(), quiet, []byte(image), cmdline, append(sources, Cmdline(cmdline))...)
}

func host(name string) string { return "[image]\nhostname = '" + name + "'\n" }

func word(document string) string {
	return "umbra.config=" + base64.StdEncoding.EncodeToString([]byte(document))
}

func TestPrecedence(t *testing.T) {
	none := func(context.Context, *slog.Logger) ([]*overlay.Document, error) { return nil, nil }
	for _, tt := range []struct {
		rule    string
		sources []Source
		cmdline string
		want    string
		found   []string
	}{
		{"without any the image's counts", []Source{none}, "quiet", "built", nil},
		{"a later source is over an earlier one", []Source{said("a", host("a")), none, said("b", host("b"))}, "", "b", []string{"a", "b"}},
		{"the document of the command line is over all sources", []Source{said("a", host("a"))}, word(host("c")), "c",
			[]string{"a", "kernel command line umbra.config"}},
		{"its words are over everything", []Source{said("a", host("a"))}, word(host("c")) + " umbra.hostname=w", "w",
			[]string{"a", "kernel command line umbra.config"}},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			r := gatherAll(tt.cmdline, tt.sources...)
			if r.Config.Hostname != tt.want || !slices.Equal(r.Documents, tt.found) || len(r.Faults) > 0 {
				t.Errorf("host name %q of %q, faults %q; want %q of %q", r.Config.Hostname, r.Documents, r.Faults, tt.want, tt.found)
			}
		})
	}
}

func TestOneFaultRefusesAllDocuments(t *testing.T) {
	broken := func(context.Context, *slog.Logger) ([]*overlay.Document, error) {
		return nil, errors.New("volume x: broken")
	}
	good := said("good", host("a"))
	for _, tt := range []struct {
		rule    string
		sources []Source
		cmdline string
		want    []string
	}{
		{"an unknown key", []Source{good, said("bad", "[image]\nx = 1\ny = 2")}, "",
			[]string{"bad: line 2: image.x: no such key", "bad: line 3: image.y: no such key"}},
		{"a source that cannot be read", []Source{broken, good}, "", []string{"volume x: broken"}},
		{"what is wrong only with the image", []Source{good, said("bad", "[[role]]\nname = 'net1'")}, "",
			[]string{"bad: line 1: role[0].class: missing; want net"}},
		{"a document on the command line that is none", []Source{good}, "umbra.config=?",
			[]string{"kernel command line: umbra.config: illegal base64 data at input byte 0"}},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			r := gatherAll(tt.cmdline, tt.sources...)
			if diff := cmp.Diff(tt.want, r.Faults); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
			if r.Config.Hostname != "built" || len(r.Config.Roles) != 1 {
				t.Errorf("the configuration is not the image's: %+v", r.Config)
			}
		})
	}
}

func TestAWordThatIsRefusedIsAFaultAndOtherWordsCount(t *testing.T) {
	r := gatherAll("umbra.nosuch=1 umbra.debug", said("a", host("a")))
	if len(r.Faults) != 1 || !strings.Contains(r.Faults[0], "umbra.nosuch") || !r.Config.Debug || r.Config.Hostname != "built" {
		t.Errorf("faults %q, debug %t, host name %q", r.Faults, r.Config.Debug, r.Config.Hostname)
	}
}

func TestAnImageThatIsBrokenCanStillBeAsked(t *testing.T) {
	r := Gather(context.Background(), quiet, nil, "umbra.debug")
	if len(r.Faults) != 1 || r.Config == nil || r.Config.Hostname != "umbra" || !r.Config.Debug {
		t.Errorf("faults %q, configuration %+v", r.Faults, r.Config)
	}
}

func TestResultIsHandedOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deploy.json")
	want := gatherAll("", said("a", host("a")), said("b", "[[service]]\nname = 'app'\nenv = ['SECRET=1']"))
	if err := want.Save(path); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, Load(path, []byte(image), "")); diff != "" {
		t.Errorf("loaded (-saved +loaded):\n%s", diff)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v: others than root can read what services are told", info.Mode(), err)
	}
}

func TestWithoutAResultTheImageCountsAndThatIsAFault(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"cut": `{"config": {"hostn`, "empty": "{}"})
	for _, name := range []string{"none", "cut", "empty"} {
		r := Load(filepath.Join(dir, name), []byte(image), "umbra.debug "+word(host("c")))
		if len(r.Faults) != 1 || r.Config.Hostname != "built" || !r.Config.Debug {
			t.Errorf("%s: faults %q, configuration %+v", name, r.Faults, r.Config)
		}
	}
}

// hostname says which host name the documents of a source make, or their faults.
func hostname(s Source) string {
	r := gatherAll("", s)
	if len(r.Faults) > 0 {
		return strings.Join(r.Faults, "\n")
	}
	return r.Config.Hostname + " by " + strings.Join(r.Documents, ", ")
}

func TestFirmwareConfig(t *testing.T) {
	const dir = "firmware/qemu_fw_cfg/by_name/opt/"
	device := map[string]string{"bus/acpi/devices/QEMU0002:00/hid": "QEMU0002\n"}
	loaded := 0
	load := func(_ context.Context, modules ...string) error {
		if !slices.Equal(modules, []string{"qemu_fw_cfg"}) {
			return fmt.Errorf("no modules %s", modules)
		}
		loaded++
		return nil
	}
	for _, tt := range []struct {
		rule  string
		files map[string]string
		want  string
	}{
		{"nothing that is ours", map[string]string{dir + "org.other/a/raw": "x"}, "built by "},
		{"one document", map[string]string{dir + "org.umbra/config/raw": host("a")}, "a by fw_cfg opt/org.umbra/config"},
		{"several, in the order of their names", map[string]string{
			dir + "org.umbra/10-b/raw": host("b"), dir + "org.umbra/20-a/raw": host("a"),
		}, "a by fw_cfg opt/org.umbra/10-b, fw_cfg opt/org.umbra/20-a"},
		{"a fault names the file", map[string]string{dir + "org.umbra/config/raw": "x = 1"}, "fw_cfg opt/org.umbra/config: line 1: x: no such key"},
		{"a file that is too large", map[string]string{dir + "org.umbra/config/raw": strings.Repeat("\n", overlay.MaxSize+9)},
			"fw_cfg opt/org.umbra/config: larger than 65536 bytes"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			sysfs := t.TempDir()
			write(t, sysfs, tt.files)
			write(t, sysfs, device)
			if got := hostname(FirmwareConfig(sysfs, load)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	before := loaded
	if got := hostname(FirmwareConfig(t.TempDir(), load)); got != "built by " || loaded != before || before == 0 {
		t.Errorf("without the device: %q, module loaded %d times, before %d", got, loaded, before)
	}
}

func TestXenstore(t *testing.T) {
	for _, tt := range []struct {
		rule  string
		nodes map[string]string
		deny  string
		want  string
	}{
		{"nothing there", map[string]string{"name": "x"}, "", "built by "},
		{"one document", map[string]string{"vm-data/umbra/config": host("a")}, "", "a by xenstore vm-data/umbra/config"},
		{"several, in the order of their names", map[string]string{"vm-data/umbra/2": host("b"), "vm-data/umbra/1": host("a")}, "",
			"b by xenstore vm-data/umbra/1, xenstore vm-data/umbra/2"},
		{"a fault names the node", map[string]string{"vm-data/umbra/a": "image = 1"}, "", "xenstore vm-data/umbra/a: line 1: image: want a table"},
		{"what the guest may not read", map[string]string{"vm-data/umbra/a": host("a")}, "vm-data/umbra/a",
			"xenstore: read vm-data/umbra/a: refused by xenstore: EACCES"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			store := xenstoretest.New(t, tt.nodes)
			store.Deny(tt.deny)
			if got := hostname(Xenstore(store.Open)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if got := hostname(Xenstore(func() (*xenstore.Conn, error) { return nil, xenstore.ErrNoXen })); got != "built by " {
		t.Errorf("elsewhere than on Xen: %q", got)
	}
}
