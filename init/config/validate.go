// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// FieldError says which field of a configuration is wrong. Field is the path
// of the field as written in the file: roles[0].network.gateway.
type FieldError struct {
	Field string
	Value string
	Err   error
}

func (e *FieldError) Error() string {
	if e.Value == "" {
		return fmt.Sprintf("%s: %v", e.Field, e.Err)
	}
	return fmt.Sprintf("%s: %q: %v", e.Field, e.Value, e.Err)
}

// Unwrap returns the reason, and [ErrInvalid] for every FieldError.
func (e *FieldError) Unwrap() []error { return []error{ErrInvalid, e.Err} }

var (
	pciAddress = regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`)
	pciIDs     = regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{4}$`)
	moduleName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	// RFC 1123 labels; the kernel's limit is 64 bytes (__NEW_UTS_LEN).
	hostname    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`)
	roleName    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	serviceName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@-]*$`)
)

// checker collects field errors.
type checker struct{ errs []error }

func (k *checker) fail(field, value, format string, args ...any) {
	k.errs = append(k.errs, &FieldError{Field: field, Value: value, Err: fmt.Errorf(format, args...)})
}

// Validate checks the configuration as a whole and returns every fault found,
// joined; each is a [*FieldError] naming the path of its field.
func (c *Config) Validate() error {
	k := new(checker)
	if len(c.Hostname) > 64 || !hostname.MatchString(c.Hostname) {
		k.fail("hostname", c.Hostname, "want letters, digits, dots and inner dashes, 1 to 64 of them")
	}
	k.position("shadow", c.Shadow)
	k.modules("modules", c.Modules)
	k.modules("prefetch", c.Prefetch)
	k.modules("drive", c.Drive)
	k.modules("disks", c.Disks)
	k.authorizedKeys("authorized_keys", c.AuthorizedKeys)
	roles := make(map[string]int)
	for i := range c.Roles {
		field := fmt.Sprintf("roles[%d]", i)
		k.role(field, &c.Roles[i])
		if first, dup := roles[c.Roles[i].Name]; dup {
			k.fail(field+".name", c.Roles[i].Name, "already the name of roles[%d]", first)
		} else {
			roles[c.Roles[i].Name] = i
		}
	}
	k.status(c.Status, roles)
	k.data(c.Data, roles)
	k.update(c.Update)
	k.vlanNames(c.Roles, roles)
	services := make(map[string]int)
	for i := range c.Services {
		field := fmt.Sprintf("services[%d]", i)
		k.service(field, &c.Services[i], roles)
		if first, dup := services[c.Services[i].Name]; dup {
			k.fail(field+".name", c.Services[i].Name, "already the name of services[%d]", first)
		} else {
			services[c.Services[i].Name] = i
		}
	}
	k.needs(c.Services, roles, services, c.Data)
	k.log(c.Log)
	k.ntp(c.NTP)
	return errors.Join(k.errs...)
}

func (k *checker) modules(field string, names []string) {
	for i, name := range names {
		if !moduleName.MatchString(name) {
			k.fail(fmt.Sprintf("%s[%d]", field, i), name, "not a module name (no path, no .ko)")
		}
	}
}

// maxRoleName is what an interface's name has room for beside "-tap", the ending
// of the TAP below a role's proxy (net/core/dev.c, dev_valid_name).
const maxRoleName = 15 - len("-tap")

func (k *checker) role(field string, r *Role) {
	switch {
	case r.Name == "":
		k.fail(field+".name", "", "missing")
	case len(r.Name) > maxRoleName || !roleName.MatchString(r.Name):
		k.fail(field+".name", r.Name, "want a name for an interface, with room for -tap behind it: at most %d letters, digits, dots, dashes and underscores", maxRoleName)
	case r.Name == "lo":
		k.fail(field+".name", r.Name, "the loopback interface has that name")
	}
	switch r.Class {
	case ClassNet:
	case "":
		k.fail(field+".class", "", "missing; want %s", ClassNet)
	default:
		k.fail(field+".class", string(r.Class), "unknown class; want %s", ClassNet)
	}
	k.mac(field+".mac", r.MAC)
	k.match(field+".match", r.Match)
	k.match(field+".standby.match", r.Standby.Match)
	switch r.Standby.Pair {
	case PairMAC, PairAny, "":
	case PairNone:
		if r.Standby.Match != (Match{}) {
			k.fail(field+".standby.pair", string(PairNone), "there are rules for a standby")
		}
	default:
		k.fail(field+".standby.pair", string(r.Standby.Pair), "want mac, any or none")
	}
	if r.Hold.Bytes < 0 {
		k.fail(field+".hold.bytes", "", "%d is negative", r.Hold.Bytes)
	}
	if r.Hold.Frames < 0 {
		k.fail(field+".hold.frames", "", "%d is negative", r.Hold.Frames)
	}
	k.position(field+".hasten", r.Hasten)
	k.position(field+".shortcut", r.Shortcut)
	k.network(field+".network", &r.Network)
	k.vlans(field+".vlan", r)
}

func (k *checker) position(field string, s Switch) {
	if s != "" && s != On && s != Off {
		k.fail(field, string(s), "want on or off")
	}
}

func (k *checker) match(field string, m Match) {
	k.mac(field+".mac", m.MAC)
	if a := m.Address; a != "" && !pciAddress.MatchString(a) {
		k.fail(field+".address", a, "want a PCI address with its domain, in lower case, such as 0000:00:02.0")
	}
	if ids := m.IDs; ids != "" && !pciIDs.MatchString(ids) {
		k.fail(field+".ids", ids, "want vendor:device in lower-case hex, such as 8086:100e")
	}
}

func (k *checker) mac(field, value string) {
	if value == "" {
		return
	}
	hw, err := net.ParseMAC(value)
	switch {
	case err != nil || len(hw) != 6:
		k.fail(field, value, "want an Ethernet address such as 52:54:00:12:34:56")
	case hw[0]&1 != 0:
		k.fail(field, value, "is a group address, an interface needs an individual one")
	}
}

func (k *checker) network(field string, n *Network) {
	switch n.Method {
	case MethodStatic:
		if len(n.Addresses) == 0 {
			k.fail(field+".addresses", "", "method static needs at least one")
		}
	case MethodDHCP, MethodNone, "":
		if len(n.Addresses) > 0 {
			k.fail(field+".addresses", n.Addresses[0], "only method static takes addresses")
		}
		if n.Gateway != "" {
			k.fail(field+".gateway", n.Gateway, "only method static takes a gateway")
		}
	default:
		k.fail(field+".method", string(n.Method), "want dhcp, static or none")
	}
	switch n.IPv6 {
	case IPv6Auto, IPv6SLAAC, IPv6DHCP, IPv6None, "":
	default:
		k.fail(field+".ipv6", string(n.IPv6), "want auto, slaac, dhcp or none")
	}
	var nets []netip.Prefix
	for i, a := range n.Addresses {
		p, err := netip.ParsePrefix(a)
		if err != nil {
			k.fail(fmt.Sprintf("%s.addresses[%d]", field, i), a, "want address/prefix length, such as 10.0.2.15/24")
			continue
		}
		nets = append(nets, p)
	}
	if g := n.Gateway; g != "" && n.Method == MethodStatic {
		addr, err := netip.ParseAddr(g)
		if err != nil {
			k.fail(field+".gateway", g, "want an address such as 10.0.2.2")
		} else if !reachable(addr, nets) {
			k.fail(field+".gateway", g, "is in none of the networks of %s.addresses", field)
		}
	}
	k.routes(field+".routes", n, nets)
	for i, d := range n.DNS {
		if _, err := netip.ParseAddr(d); err != nil {
			k.fail(fmt.Sprintf("%s.dns[%d]", field, i), d, "want an address such as 10.0.2.3")
		}
	}
}

// reachable reports whether one of nets holds addr. A link-local gateway is
// reachable on any link.
func reachable(addr netip.Addr, nets []netip.Prefix) bool {
	if addr.IsLinkLocalUnicast() {
		return true
	}
	for _, p := range nets {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// minStatusPort is the first port that one without privileges may listen on
// (net.ipv4.ip_unprivileged_port_start).
const minStatusPort = 1024

func (k *checker) status(s StatusPage, roles map[string]int) {
	if !s.Enabled() {
		return
	}
	if _, ok := roles[s.Role]; s.Role != "" && !ok {
		k.fail("status.role", s.Role, "no role has that name")
	}
	if s.Listen == "" {
		return // SetDefaults fills it in
	}
	host, port, err := net.SplitHostPort(s.Listen)
	if err != nil {
		k.fail("status.listen", s.Listen, "want address:port, such as 127.0.0.1:9100")
		return
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n < minStatusPort {
		k.fail("status.listen", s.Listen, "want a port from %d to 65535: the page is served without privileges", minStatusPort)
	}
	addr, err := netip.ParseAddr(host)
	switch {
	case host != "" && err != nil:
		k.fail("status.listen", s.Listen, "want an address such as 127.0.0.1, not a name")
	case s.Role == "" && !addr.IsLoopback():
		k.fail("status.listen", s.Listen, "want an address of the loopback interface, or a role in status.role")
	case s.Role != "" && addr.IsLoopback():
		k.fail("status.listen", s.Listen, "the role %s does not lead to the loopback interface", s.Role)
	}
}

func (k *checker) service(field string, s *Service, roles map[string]int) {
	switch {
	case s.Name == "":
		k.fail(field+".name", "", "missing")
	case len(s.Name) > maxServiceName || !serviceName.MatchString(s.Name):
		k.fail(field+".name", s.Name, "want letters, digits and . _ @ -, at most %d of them", maxServiceName)
	case slices.Contains(reserved, s.Name):
		k.fail(field+".name", s.Name, "is a name of init's own")
	}
	if i, taken := roles[s.Name]; taken {
		k.fail(field+".name", s.Name, "already the name of roles[%d]", i)
	}
	switch {
	case len(s.Argv) == 0:
		k.fail(field+".argv", "", "missing")
	case !path.IsAbs(s.Argv[0]):
		k.fail(field+".argv[0]", s.Argv[0], "want an absolute path in the guest")
	}
	for i, arg := range s.Argv {
		if strings.ContainsRune(arg, 0) {
			k.fail(fmt.Sprintf("%s.argv[%d]", field, i), arg, "contains a NUL byte")
		}
	}
	for i, kv := range s.Env {
		if key, _, ok := strings.Cut(kv, "="); !ok || key == "" || strings.ContainsRune(kv, 0) {
			k.fail(fmt.Sprintf("%s.env[%d]", field, i), kv, "want NAME=value")
		}
	}
	if s.Dir != "" && !path.IsAbs(s.Dir) {
		k.fail(field+".dir", s.Dir, "want an absolute path in the guest")
	}
	switch s.Restart {
	case RestartAlways, RestartOnFailure, RestartNever, "":
	default:
		k.fail(field+".restart", string(s.Restart), "want always, on-failure or never")
	}
	k.supervision(field, s)
	k.confinement(field, s)
	if s.Backoff.Min < 0 {
		k.fail(field+".backoff_ms.min", "", "%d is negative", s.Backoff.Min)
	}
	if s.Backoff.Max < 0 {
		k.fail(field+".backoff_ms.max", "", "%d is negative", s.Backoff.Max)
	}
	if s.Backoff.Max != 0 && s.Backoff.Min > s.Backoff.Max {
		k.fail(field+".backoff_ms.min", "", "%d is larger than max, %d", s.Backoff.Min, s.Backoff.Max)
	}
}
