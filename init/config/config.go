// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package config is what an image tells its own init: which modules to load at
// boot, which roles exist, and which services to run once their roles have a
// network. The builder writes it, PID 1 and its children read it.
//
// It is plain data with a strict reader. It must never know how a module is
// loaded, how a role is served or how a service is started, and it imports
// nothing of umbra but the names of slots.
package config

import (
	"strconv"
	"time"

	"github.com/umbra-vm/umbra/init/config/slot"
)

// Path is where the configuration lies in the guest's root file system.
const Path = "/etc/umbra/config.json"

// AuthorizedKeysPath is where a service finds the public keys of those who may log in,
// in the form of sshd's AuthorizedKeysFile. Nothing in umbra reads it.
const AuthorizedKeysPath = "/etc/umbra/authorized_keys"

// Config is the whole configuration of one guest.
type Config struct {
	Hostname string `json:"hostname"`

	// Modules are loaded at boot by name, in this order, their dependencies
	// first. They are the modules no device asks for: bonding, tun, sch_plug.
	Modules []string `json:"modules,omitempty"`

	// Prefetch names the drivers that are brought into memory at boot, so
	// that a recovery pays only for probe and open.
	Prefetch []string `json:"prefetch,omitempty"`

	// Drive names the modules with which a volume that has
	// configuration is found. Without any, none is looked for.
	Drive []string `json:"drive,omitempty"`

	// Disks names the modules with which the disk of Data, and
	// that with the slots, is found and mounted.
	Disks []string `json:"disks,omitempty"`

	// AuthorizedKeys are the lines of [AuthorizedKeysPath].
	AuthorizedKeys []string `json:"authorized_keys,omitempty"`

	Roles    []Role    `json:"roles,omitempty"`
	Services []Service `json:"services,omitempty"`
	Log      Log       `json:"log,omitzero"`

	// Shadow turns the shadows off: a role's hardware is then used directly,
	// and a change of hardware costs a plain driver reload. It exists to be
	// compared against.
	Shadow Switch `json:"shadow,omitempty"`

	Status StatusPage `json:"status,omitzero"`
	Data   Data       `json:"data,omitzero"`
	NTP    NTP        `json:"ntp,omitzero"`
	Update Update     `json:"update,omitzero"`

	// Slot is what the guest was booted from, which the kernel command line says; of a
	// guest that was not booted from a disk with slots it is zero.
	Slot slot.Slot `json:"slot,omitzero"`

	// Debug asks for a shell on the console and talkative logs.
	Debug bool `json:"debug,omitempty"`
}

// StatusPage says where the guest's state can be read over HTTP. It is off if empty. It
// has the same form in the builder's TOML as in the guest's JSON.
type StatusPage struct {
	// Listen is an address and a port: of the loopback interface or, with a Role, of
	// that or left out for all that it has.
	Listen string `json:"listen,omitempty" toml:"listen"`
	// Role is whose network the page can be reached from.
	Role string `json:"role,omitempty" toml:"role"`
}

// DefaultStatusListen is where a page listens that is given a role only.
const DefaultStatusListen = ":9100"

// StatusUser is the user and the group that serve the page, and own nothing else. Debian
// gives numbers from 65000 to 65533 to nobody (Debian Policy 9.2.2).
const StatusUser = 65533

// Enabled reports whether there is a page.
func (s StatusPage) Enabled() bool { return s != StatusPage{} }

// Switch is "on" or "off"; the empty value means "on" where nothing else is said.
type Switch string

// The two positions of a Switch.
const (
	On  Switch = "on"
	Off Switch = "off"
)

// Enabled reports whether the switch is on, which it is by default.
func (s Switch) Enabled() bool { return s != Off }

// Class names the device class of a role.
type Class string

// ClassNet is the network class, the only one with a proxy so far.
const ClassNet Class = "net"

// Role is a logical device that outlives hardware. It has the same form in the
// builder's TOML as in the guest's JSON.
type Role struct {
	// Name is also the name of the role's network interface in the guest, so
	// it obeys the kernel's rules for one (net/core/dev.c, dev_valid_name): no
	// slash, no colon, no white space, and at most 11 bytes, as there is one
	// more interface with "-tap" behind the name.
	Name  string `json:"name" toml:"name"`
	Class Class  `json:"class" toml:"class"`
	Match Match  `json:"match,omitzero" toml:"match"`

	// Standby says which paravirtual device serves the role while it has no other.
	Standby Standby `json:"standby,omitzero" toml:"standby"`

	// MAC fixes the proxy's address. Empty: the first device's address is
	// taken and kept from then on.
	MAC string `json:"mac,omitempty" toml:"mac"`

	Network Network `json:"network,omitzero" toml:"network"`
	VLANs   []VLAN  `json:"vlan,omitempty" toml:"vlan"`
	Hold    Hold    `json:"hold,omitzero" toml:"hold"`

	// Hasten has the peers of TCP connections told, after a recovery, that what they
	// have sent in vain can be sent again. It is off if empty.
	Hasten Switch `json:"hasten,omitempty" toml:"hasten"`

	// Shortcut has what is sent by IPv4 routed around the proxy while a device serves
	// it. It is off if empty.
	Shortcut Switch `json:"shortcut,omitempty" toml:"shortcut"`
}

// Match narrows which device may take the role. An empty Match takes the first
// free device of the class in bus order.
type Match struct {
	MAC     string `json:"mac,omitempty" toml:"mac"`         // 52:54:00:12:34:56
	Address string `json:"address,omitempty" toml:"address"` // PCI address with domain, 0000:00:02.0
	IDs     string `json:"ids,omitempty" toml:"ids"`         // vendor:device, 4 hex digits each, 8086:100e
}

// Pairing says by what a role's device and its standby are known to belong together.
type Pairing string

// The pairings. The empty value means PairMAC, and PairAny where there are rules.
const (
	PairMAC  Pairing = "mac"  // by equal MACs, as Linux's net_failover does
	PairAny  Pairing = "any"  // the first that is left over
	PairNone Pairing = "none" // there is no standby
)

// Standby says which paravirtual device stands by for a role.
type Standby struct {
	Pair  Pairing `json:"pair,omitempty" toml:"pair"`
	Match Match   `json:"match,omitzero" toml:"match"`
}

// Method says how a role's network is configured.
type Method string

// The methods of configuring a network. The empty value means MethodDHCP.
const (
	MethodDHCP   Method = "dhcp"
	MethodStatic Method = "static"
	MethodNone   Method = "none"
)

// IPv6 says what a role waits for, and asks for, of IPv6 beside its method. The
// kernel takes addresses and routes from router advertisements in any case.
type IPv6 string

// The ways of IPv6. The empty value means IPv6Auto where the method is
// MethodDHCP, else IPv6None.
const (
	IPv6Auto  IPv6 = "auto"  // DHCPv6 if routers say so; nobody waits for it
	IPv6SLAAC IPv6 = "slaac" // an address by router advertisements is waited for
	IPv6DHCP  IPv6 = "dhcp"  // DHCPv6, whatever routers say; waited for
	IPv6None  IPv6 = "none"  // all is left to the kernel
)

// Network configures the role's proxy.
type Network struct {
	Method    Method   `json:"method,omitempty" toml:"method"`
	IPv6      IPv6     `json:"ipv6,omitempty" toml:"ipv6"`
	Addresses []string `json:"addresses,omitempty" toml:"addresses"` // CIDR, 10.0.2.15/24, fd00::15/64; static only
	Gateway   string   `json:"gateway,omitempty" toml:"gateway"`     // static only
	DNS       []string `json:"dns,omitempty" toml:"dns"`             // replaces what DHCP and routers offer
	Routes    []Route  `json:"routes,omitempty" toml:"routes"`       // beside the method's; static and dhcp only
}

// Route leads to a network by way of a gateway.
type Route struct {
	To  string `json:"to" toml:"to"`   // 10.1.0.0/16
	Via string `json:"via" toml:"via"` // 10.0.2.9
}

// VLAN is a tagged network on a role's proxy (IEEE 802.1Q). Its interface is called
// ROLE.ID, and the role is up when it is.
type VLAN struct {
	ID      int     `json:"id" toml:"id"` // 1 to 4094
	Network Network `json:"network,omitzero" toml:"network"`
}

// Interface is the name of the VLAN's interface on a role's proxy.
func (v VLAN) Interface(role string) string { return role + "." + strconv.Itoa(v.ID) }

// Hold bounds what is kept of the frames applications send while a role has no
// hardware. Beyond either bound frames are dropped and counted.
type Hold struct {
	Bytes  int64 `json:"bytes,omitempty" toml:"bytes"`
	Frames int   `json:"frames,omitempty" toml:"frames"`
}

// The bounds of a role that names none. 16 MiB are 134 ms of a full 1 Gb/s;
// TCP stops at its window long before, so it is datagram senders they bound.
const (
	DefaultHoldBytes  = 16 << 20
	DefaultHoldFrames = 1 << 16
)

// Restart says when a service that ended is started again.
type Restart string

// The restart policies. The empty value means RestartAlways.
const (
	RestartAlways    Restart = "always"
	RestartOnFailure Restart = "on-failure"
	RestartNever     Restart = "never"
)

// Service is one program of the user, supervised by init.
type Service struct {
	Name string   `json:"name"`
	Argv []string `json:"argv"`          // Argv[0] is an absolute path in the guest
	Env  []string `json:"env,omitempty"` // K=V
	Dir  string   `json:"dir,omitempty"` // working directory, / if empty

	// Needs names the roles whose network must be up, and recorded, and the services that
	// must have been started or, if they are oneshots, have ended well, before the
	// service is first started.
	Needs   []string    `json:"needs,omitempty"`
	Type    ServiceType `json:"type,omitempty"`
	Restart Restart     `json:"restart,omitempty"`
	Backoff Backoff     `json:"backoff_ms,omitzero"`

	// StopTimeout is how long it may take from SIGTERM to its end, in milliseconds; then
	// it gets SIGKILL.
	StopTimeout int    `json:"stop_timeout_ms,omitempty"`
	Limits      Limits `json:"limits,omitzero"`
	LogBytes    int    `json:"log_bytes,omitempty"` // of its output that are remembered

	User *User `json:"user,omitempty"` // root if nil

	// Capabilities are those that it, and whatever it starts, may have at most; a user
	// other than root has them, too. Nil is all for root and none for others.
	Capabilities []string `json:"capabilities,omitzero"`

	// NoNewPrivileges keeps setuid programs from giving more.
	NoNewPrivileges Switch `json:"no_new_privileges,omitempty"`

	// ReadOnlyRoot lets it write only to /dev/shm, /run, /tmp, /var/tmp, /var/lib/NAME,
	// and to what is Writable.
	ReadOnlyRoot Switch   `json:"read_only_root,omitempty"`
	Writable     []string `json:"writable,omitempty"`
}

// Backoff is the wait before a restart, in milliseconds: Min after the first
// failure, doubled up to Max with each that follows.
type Backoff struct {
	Min int `json:"min,omitempty" toml:"min"`
	Max int `json:"max,omitempty" toml:"max"`
}

// The back-off of a service that names none, in milliseconds.
const (
	DefaultBackoffMin = 100
	DefaultBackoffMax = 30_000
)

// Bounds returns the shortest and the longest wait.
func (b Backoff) Bounds() (shortest, longest time.Duration) {
	return time.Duration(b.Min) * time.Millisecond, time.Duration(b.Max) * time.Millisecond
}

// Role returns the role of that name.
func (c *Config) Role(name string) (Role, bool) {
	for _, r := range c.Roles {
		if r.Name == name {
			return r, true
		}
	}
	return Role{}, false
}

// SetDefaults fills in every value that was left empty and has a default.
func (c *Config) SetDefaults() {
	if c.Hostname == "" {
		c.Hostname = "umbra"
	}
	if c.Shadow == "" {
		c.Shadow = On
	}
	c.Update.setDefaults()
	if c.Status.Role != "" && c.Status.Listen == "" {
		c.Status.Listen = DefaultStatusListen
	}
	if c.NTP.DHCP == "" {
		c.NTP.DHCP = Off
	}
	for i := range c.Roles {
		r := &c.Roles[i]
		r.Network.setDefaults()
		for j := range r.VLANs {
			r.VLANs[j].Network.setDefaults()
		}
		if r.Hasten == "" {
			r.Hasten = Off
		}
		if r.Shortcut == "" {
			r.Shortcut = Off
		}
		if r.Hold.Bytes == 0 {
			r.Hold.Bytes = DefaultHoldBytes
		}
		if r.Hold.Frames == 0 {
			r.Hold.Frames = DefaultHoldFrames
		}
	}
	for i := range c.Services {
		s := &c.Services[i]
		if s.Dir == "" {
			s.Dir = "/"
		}
		s.setConfinementDefaults()
		if s.Restart == "" {
			s.Restart = RestartAlways
		}
		if s.Backoff.Max == 0 {
			s.Backoff.Max = max(DefaultBackoffMax, s.Backoff.Min)
		}
		if s.Backoff.Min == 0 {
			s.Backoff.Min = min(DefaultBackoffMin, s.Backoff.Max)
		}
	}
}

func (n *Network) setDefaults() {
	if n.Method == "" {
		n.Method = MethodDHCP
	}
	if n.IPv6 == "" {
		n.IPv6 = IPv6None
		if n.Method == MethodDHCP {
			n.IPv6 = IPv6Auto
		}
	}
}
