// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xen

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/umbra-vm/umbra/drivers/pci"
)

// ErrOutput is matched by the errors about what xl has printed.
var ErrOutput = errors.New("xl's output is not understood")

// info is what "xl info" says of a host.
type info struct {
	major, minor int
	version      string
	freeMB       int
}

func parseInfo(text string) (i info, err error) {
	values := make(map[string]string)
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			values[strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
	i.version = values["xen_version"]
	for key, to := range map[string]*int{"xen_major": &i.major, "xen_minor": &i.minor, "free_memory": &i.freeMB} {
		if *to, err = strconv.Atoi(values[key]); err != nil || *to < 0 {
			return i, fmt.Errorf("%w: xl info: %s is %q", ErrOutput, key, values[key])
		}
	}
	return i, nil
}

// state is a domain in "xl list".
type state struct {
	id    int
	flags string // "rbpscd", with a dash for what it is not (xl(1), LIST)
}

// The states in which a domain does not run: paused, shut down, crashed, dying.
func (s state) runs() bool { return !strings.ContainsAny(s.flags, "pscd") }
func (s state) paused() bool {
	return strings.Contains(s.flags, "p") && !strings.ContainsAny(s.flags, "scd")
}

// parseList reads "xl list". The columns are counted from the right: a name may have
// spaces.
func parseList(text string) (map[string]state, error) {
	domains := make(map[string]state)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] == "Name" && f[len(f)-1] == "Time(s)" {
			continue
		}
		if len(f) < 6 {
			return nil, fmt.Errorf("%w: xl list: %q", ErrOutput, line)
		}
		n := len(f) - 5
		id, err := strconv.Atoi(f[n])
		if flags := f[n+3]; err != nil || id < 0 || len(flags) != 6 {
			return nil, fmt.Errorf("%w: xl list: %q", ErrOutput, line)
		}
		domains[strings.Join(f[:n], " ")] = state{id: id, flags: f[n+3]}
	}
	return domains, nil
}

// config is a domain's configuration as libxl has it (libxl_types.idl): what a domain of
// "xl list -l" was made of, and what "xl create -n" would make of a file. What is left
// out of it has its default.
type config struct {
	Create struct {
		Name string `json:"name"`
		Type string `json:"type"` // hvm, pv, pvh
	} `json:"c_info"`
	Build struct {
		MaxMemKB    int64    `json:"max_memkb"`
		ShadowMemKB int64    `json:"shadow_memkb"`
		Args        []string `json:"extra_hvm"`
		// Leaves is migrate_devices of a patched Xen, as libxl writes a defbool.
		Leaves string `json:"migrate_devices"`
	} `json:"b_info"`
	PCI      []passed `json:"pcidevs"`
	Channels []struct {
		Name   string `json:"name"`
		Socket struct {
			Path string `json:"path"`
		} `json:"connection.socket"`
	} `json:"channels"`
}

// ctlChannel is the name of the channel to the agent of a guest that is no HVM guest, as umbra
// build writes it into an xl.cfg.
const ctlChannel = "org.umbra.ctl"

// passed is a device of a host that a domain has.
type passed struct {
	Domain int  `json:"domain"`
	Bus    int  `json:"bus"`
	Dev    int  `json:"dev"`
	Func   int  `json:"func"`
	Vdevfn int  `json:"vdevfn"` // in the guest, 0 if it is left to Xen
	Seize  bool `json:"seize"`
}

func (p passed) String() string {
	return fmt.Sprintf("%04x:%02x:%02x.%x", p.Domain, p.Bus, p.Dev, p.Func)
}

// spec is the device as "xl pci-attach" takes it.
func (p passed) spec() string {
	if p.Seize {
		return p.String() + ",seize=1"
	}
	return p.String()
}

// address is where an HVM guest has what is at vdevfn.
func address(vdevfn int) string {
	return fmt.Sprintf("0000:00:%02x.%x", vdevfn>>3&0x1f, vdevfn&7)
}

// guestAddress is where the guest has, or will have, the n-th device. Where that is left to
// Xen, only the order is known: they are plugged in as they are listed. A paravirtual guest
// has them in its slots from the first on (Linux, drivers/xen/xen-pciback/vpci.c).
func (c config) guestAddress(n int) string {
	const behind = 16 // the slots that anybody chooses
	switch at := c.PCI[n].Vdevfn; {
	case c.Create.Type == "pv":
		return address(n << 3)
	case at != 0:
		return address(at)
	default:
		return address((behind + n%behind) << 3)
	}
}

// neededMB is what the domain takes of a host's memory, without what its device model
// and Xen itself take.
func (c config) neededMB() int { return int((c.Build.MaxMemKB + c.Build.ShadowMemKB + 1023) / 1024) }

// ctl is the host's end of the port to the guest's agent: the socket of the character
// device named ctl, as umbra build writes it into an xl.cfg, or of the channel. Empty if there
// is none.
func (c config) ctl() string {
	for _, ch := range c.Channels {
		if ch.Name == ctlChannel && ch.Socket.Path != "" {
			return ch.Socket.Path
		}
	}
	for _, arg := range c.Build.Args {
		options := strings.Split(arg, ",")
		if options[0] != "socket" || !slices.Contains(options, "id=ctl") {
			continue
		}
		for _, o := range options {
			if path, ok := strings.CutPrefix(o, "path="); ok {
				return path
			}
		}
	}
	return ""
}

// parseConfig reads what "xl create -n" prints, behind words for people.
func parseConfig(text []byte) (c config, err error) {
	start := bytes.IndexByte(text, '{')
	if start < 0 {
		return c, fmt.Errorf("%w: xl create -n: no configuration", ErrOutput)
	}
	if err := json.Unmarshal(text[start:], &c); err != nil {
		return c, fmt.Errorf("%w: xl create -n: %w", ErrOutput, err)
	}
	return c, c.check()
}

// parseDomain reads what "xl list -l" prints of one domain.
func parseDomain(text []byte) (c config, err error) {
	var domains []struct {
		Config config `json:"config"`
	}
	start := bytes.IndexByte(text, '[')
	if start < 0 {
		return c, fmt.Errorf("%w: xl list -l: no domain", ErrOutput)
	}
	if err := json.Unmarshal(text[start:], &domains); err != nil {
		return c, fmt.Errorf("%w: xl list -l: %w", ErrOutput, err)
	}
	if len(domains) != 1 {
		return c, fmt.Errorf("%w: xl list -l: %d domains, not one", ErrOutput, len(domains))
	}
	return domains[0].Config, domains[0].Config.check()
}

func (c config) check() error {
	if c.Create.Name == "" || c.Create.Type == "" || c.Build.MaxMemKB <= 0 {
		return fmt.Errorf("%w: name %q, type %q, memory %d KiB", ErrOutput, c.Create.Name, c.Create.Type, c.Build.MaxMemKB)
	}
	return nil
}

// parseAssignable reads "xl pci-assignable-list": an address a line, and maybe a name.
func parseAssignable(text string) (list []string) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 0 {
			list = append(list, f[0])
		}
	}
	return list
}

// attached is a device of a host, and where a guest has it.
type attached struct{ host, guest string }

// parseAttached reads "xl pci-list".
func parseAttached(text string) (list []attached, err error) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] == "Vdev" {
			continue
		}
		var slot, function int
		_, err := fmt.Sscanf(f[0], "%x.%x", &slot, &function)
		if err != nil || len(f) < 2 || slot < 0 || slot > 31 || function < 0 || function > 7 {
			return nil, fmt.Errorf("%w: xl pci-list: %q", ErrOutput, line)
		}
		if _, err := pci.ParseAddress(f[1]); err != nil {
			return nil, fmt.Errorf("%w: xl pci-list: %w", ErrOutput, err)
		}
		list = append(list, attached{host: f[1], guest: address(slot<<3 | function)})
	}
	return list, nil
}

// spaceLine prints what parseLine reads.
const spaceLine = `od -An -v -tx1 -N%d /sys/bus/pci/devices/%s/config`

// parseLine reads a configuration space in hexadecimal, and reports whether the device may
// raise an interrupt line: it is there, has a line (PCI 3.0, 6.2.4), which is not disabled
// (6.2.2), and no message interrupts instead.
func parseLine(text string) (bool, error) {
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		return false, fmt.Errorf("%w: configuration space: %w", ErrOutput, err)
	}
	c, err := pci.ParseConfig(b)
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrOutput, err)
	}
	const pin, disabled = 0x3d, 1 << 10
	return !c.Absent && b[pin] != 0 && c.Command&disabled == 0 && !c.MSI, nil
}

// ids is what sysfs has of a device.
type ids struct {
	vendor, device, subVendor, subDevice uint16
	class                                uint32
	reset                                bool   // Linux has a way to reset it
	driver                               string // "" if it has none
}

// idsLine prints what parseIDs reads, a device a line. What is not there has no line.
const idsLine = `cd /sys/bus/pci/devices && for d in %s; do [ -e $d/vendor ] || continue
r=$(readlink $d/driver); reset=$([ -e $d/reset ]; echo $?)
echo $d $(cat $d/vendor $d/device $d/subsystem_vendor $d/subsystem_device $d/class) $reset ${r##*/}; done`

func parseIDs(text string) (map[string]ids, error) {
	found := make(map[string]ids)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 7 || len(f) > 8 || f[6] != "0" && f[6] != "1" {
			return nil, fmt.Errorf("%w: sysfs: %q", ErrOutput, line)
		}
		var n [5]uint64
		for i := range n {
			bits := 16
			if i == 4 {
				bits = 24
			}
			var err error
			if n[i], err = strconv.ParseUint(f[i+1], 0, bits); err != nil {
				return nil, fmt.Errorf("%w: sysfs: %q: %w", ErrOutput, line, err)
			}
		}
		d := ids{uint16(n[0]), uint16(n[1]), uint16(n[2]), uint16(n[3]), uint32(n[4]), f[6] == "0", ""}
		if len(f) == 8 {
			d.driver = f[7]
		}
		found[f[0]] = d
	}
	return found, nil
}
