// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// domain is what of libvirt's domain matters here.
type domain struct {
	Name   string `xml:"name"`
	Memory struct {
		Unit string `xml:"unit,attr"`
		N    int    `xml:",chardata"`
	} `xml:"memory"`
	CPUs int `xml:"vcpu"`
	OS   struct {
		Kernel  string `xml:"kernel"`
		Initrd  string `xml:"initrd"`
		Cmdline string `xml:"cmdline"`
	} `xml:"os"`
	Interfaces []struct {
		Model struct {
			Type string `xml:"type,attr"`
		} `xml:"model"`
	} `xml:"devices>interface"`
	Hostdevs []struct {
		Address struct {
			Domain   string `xml:"domain,attr"`
			Bus      string `xml:"bus,attr"`
			Slot     string `xml:"slot,attr"`
			Function string `xml:"function,attr"`
		} `xml:"source>address"`
		Alias struct {
			Name string `xml:"name,attr"`
		} `xml:"alias"`
	} `xml:"devices>hostdev"`
}

func readDomain(t *testing.T, b *Bundle) (d domain, text string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(b.Dir, b.Name+".libvirt.xml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := xml.Unmarshal(raw, &d); err != nil {
		t.Fatalf("%v in\n%s", err, raw)
	}
	return d, string(raw)
}

func TestLibvirtDomain(t *testing.T) {
	b := mustBuild(t, project(t, withImage("cmdline = 'a<b&c'\n[machine]\nnic = 'virtio-net-pci'")), "out")
	d, text := readDomain(t, b)
	if d.Name != "app" || d.Memory.N != 256 || d.Memory.Unit != "MiB" || d.CPUs != 1 {
		t.Errorf("name %q, memory %d %s, %d processors", d.Name, d.Memory.N, d.Memory.Unit, d.CPUs)
	}
	dir := LibvirtDir("app") + "/"
	if d.OS.Kernel != dir+"vmlinuz" || d.OS.Initrd != dir+"initramfs.cpio.zst" || d.OS.Cmdline != b.Cmdline {
		t.Errorf("boots %+v", d.OS)
	}
	if len(d.Hostdevs) != 0 || len(d.Interfaces) != 1 || d.Interfaces[0].Model.Type != "virtio" {
		t.Errorf("interfaces %+v, devices %+v; want one NIC of the kind that libvirt calls virtio", d.Interfaces, d.Hostdevs)
	}
	// What the comment shows is what is written where devices are named.
	_, comment, _ := strings.Cut(text, "a device of this host:\n")
	comment, _, _ = strings.Cut(comment, "    -->")
	if comment != hostdev("0000:03:10.0", "direct-net0") {
		t.Errorf("the comment shows %s", comment)
	}
	if !strings.Contains(text, "<target type='virtio' name='org.umbra.ctl'/>") {
		t.Error("no port to the agent")
	}
}

func TestHostdevsGoToTheGuest(t *testing.T) {
	b := mustBuild(t, project(t, simple+"[machine]\nhostdevs = ['0000:03:10.0', '0001:5e:02.1']\n"), "out")
	d, _ := readDomain(t, b)
	var got []string
	for _, h := range d.Hostdevs {
		got = append(got, h.Address.Domain+" "+h.Address.Bus+" "+h.Address.Slot+" "+h.Address.Function+" "+h.Alias.Name)
	}
	if diff := cmp.Diff([]string{"0x0000 0x03 0x10 0x0 ua-direct-net0", "0x0001 0x5e 0x02 0x1 ua-direct-dev1"}, got); diff != "" {
		t.Errorf("libvirt's devices (-want +got):\n%s", diff)
	}
	if len(d.Interfaces) != 0 {
		t.Errorf("and an emulated NIC: %+v", d.Interfaces)
	}
	xl, err := os.ReadFile(filepath.Join(b.Dir, "app.xl.cfg"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "\npci = [ \"0000:03:10.0,seize=1\", \"0001:5e:02.1,seize=1\" ]\n"; !strings.Contains(string(xl), want) {
		t.Errorf("xl.cfg has no line %q", want)
	}
}
