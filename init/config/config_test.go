// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package config_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/config/configtest"
)

const whole = `{
  "hostname": "umbra",
  "modules": ["bonding", "tun", "sch_plug"],
  "prefetch": ["e1000", "8139cp"],
  "roles": [{"name": "net0", "class": "net",
    "match": {"mac": "52:54:00:12:34:56", "address": "0000:00:02.0", "ids": "8086:100e"},
    "standby": {"pair": "any", "match": {"ids": "1af4:1000"}},
    "network": {"method": "static", "addresses": ["10.0.2.15/24"], "gateway": "10.0.2.2", "dns": ["10.0.2.3"], "ipv6": "dhcp"},
    "hold": {"bytes": 1048576, "frames": 1024}, "hasten": "on", "shortcut": "on"}],
  "services": [{"name": "witness", "argv": ["/bin/witness", "-v"], "env": ["K=V"], "needs": ["net0", "prepare"],
    "restart": "on-failure", "backoff_ms": {"min": 50, "max": 1000}, "stop_timeout_ms": 700, "log_bytes": 8192,
    "limits": {"memory_mb": 64, "cpu_percent": 50, "cpu_weight": 10, "pids": 7}, "capabilities": ["CAP_CHOWN"],
    "user": {"uid": 101, "gid": 102, "groups": [5], "name": "w", "home": "/w"}, "read_only_root": "on", "writable": ["/data"]},
    {"name": "prepare", "argv": ["/bin/prepare"], "type": "oneshot", "capabilities": []}],
  "log": {"syslog": "udp://10.0.2.2:514"},
  "ntp": {"servers": ["ntp.example.org", "192.0.2.1:1123", "2001:db8::1", "[2001:db8::1]:1123"], "dhcp": "on"},
  "shadow": "off",
  "status": {"listen": "10.0.2.15:9100", "role": "net0"},
  "update": {"settle_s": 5, "timeout_s": 60},
  "debug": true
}`

func TestLoad(t *testing.T) {
	got, err := config.Load(strings.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Config{
		Hostname: "umbra",
		Modules:  []string{"bonding", "tun", "sch_plug"},
		Prefetch: []string{"e1000", "8139cp"},
		Roles: []config.Role{{
			Name: "net0", Class: config.ClassNet,
			Match:   config.Match{MAC: "52:54:00:12:34:56", Address: "0000:00:02.0", IDs: "8086:100e"},
			Standby: config.Standby{Pair: config.PairAny, Match: config.Match{IDs: "1af4:1000"}},
			Network: config.Network{
				Method: config.MethodStatic, Addresses: []string{"10.0.2.15/24"},
				Gateway: "10.0.2.2", DNS: []string{"10.0.2.3"}, IPv6: config.IPv6DHCP,
			},
			Hold:   config.Hold{Bytes: 1 << 20, Frames: 1024},
			Hasten: config.On, Shortcut: config.On,
		}},
		Services: []config.Service{{
			Name: "witness", Argv: []string{"/bin/witness", "-v"}, Env: []string{"K=V"}, Dir: "/",
			Needs: []string{"net0", "prepare"}, Restart: config.RestartOnFailure, Backoff: config.Backoff{Min: 50, Max: 1000},
			Type: config.TypeSimple, StopTimeout: 700, LogBytes: 8192, NoNewPrivileges: config.On, ReadOnlyRoot: config.On,
			Limits: config.Limits{MemoryMB: 64, CPUPercent: 50, CPUWeight: 10, PIDs: 7}, Capabilities: []string{"CAP_CHOWN"},
			User: &config.User{UID: 101, GID: 102, Groups: []int{5}, Name: "w", Home: "/w"}, Writable: []string{"/data"},
		}, {
			Name: "prepare", Argv: []string{"/bin/prepare"}, Dir: "/", Type: config.TypeOneshot, StopTimeout: config.DefaultStopTimeout,
			Restart: config.RestartOnFailure, Backoff: config.Backoff{Min: config.DefaultBackoffMin, Max: config.DefaultBackoffMax},
			LogBytes: config.DefaultLogBytes, NoNewPrivileges: config.On, ReadOnlyRoot: config.Off, Capabilities: []string{},
		}},
		Log:    config.Log{Syslog: "udp://10.0.2.2:514"},
		NTP:    config.NTP{Servers: []string{"ntp.example.org", "192.0.2.1:1123", "2001:db8::1", "[2001:db8::1]:1123"}, DHCP: config.On},
		Shadow: config.Off,
		Status: config.StatusPage{Listen: "10.0.2.15:9100", Role: "net0"},
		Update: config.Update{Settle: 5, Timeout: 60},
		Debug:  true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Load (-want +got):\n%s", diff)
	}
}

func TestEncodeIsReadBack(t *testing.T) {
	first, err := config.Load(strings.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := first.Encode(&text); err != nil {
		t.Fatal(err)
	}
	second, err := config.Load(&text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("after a round trip (-first +second):\n%s", diff)
	}
}

func TestDefaults(t *testing.T) {
	c, err := config.Load(strings.NewReader(`{"roles":[{"name":"net0","class":"net"}],"services":[{"name":"a","argv":["/a"]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Config{
		Hostname: "umbra",
		Shadow:   config.On,
		Roles: []config.Role{{
			Name: "net0", Class: config.ClassNet,
			Network: config.Network{Method: config.MethodDHCP, IPv6: config.IPv6Auto},
			Hold:    config.Hold{Bytes: config.DefaultHoldBytes, Frames: config.DefaultHoldFrames},
			Hasten:  config.Off, Shortcut: config.Off,
		}},
		Services: []config.Service{{
			Name: "a", Argv: []string{"/a"}, Dir: "/", Restart: config.RestartAlways,
			Backoff: config.Backoff{Min: config.DefaultBackoffMin, Max: config.DefaultBackoffMax},
			Type:    config.TypeSimple, StopTimeout: config.DefaultStopTimeout, LogBytes: config.DefaultLogBytes,
			NoNewPrivileges: config.Off, ReadOnlyRoot: config.Off,
		}},
		Update: config.Update{Settle: config.DefaultUpdateSettle, Timeout: config.DefaultUpdateTimeout},
		NTP:    config.NTP{DHCP: config.Off},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
}

func TestIPv6IsLeftToTheKernelWhereIPv4IsNotAskedFor(t *testing.T) {
	for _, tt := range []struct {
		name        string
		given, want config.Network
	}{
		{"with DHCP routers say what to do", config.Network{}, config.Network{Method: config.MethodDHCP, IPv6: config.IPv6Auto}},
		{"static means static", config.Network{Method: config.MethodStatic}, config.Network{Method: config.MethodStatic, IPv6: config.IPv6None}},
		{"none means none", config.Network{Method: config.MethodNone}, config.Network{Method: config.MethodNone, IPv6: config.IPv6None}},
		{"what is given stays", config.Network{Method: config.MethodNone, IPv6: config.IPv6SLAAC},
			config.Network{Method: config.MethodNone, IPv6: config.IPv6SLAAC}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &config.Config{Roles: []config.Role{{Name: "net0", Class: config.ClassNet, Network: tt.given}}}
			c.SetDefaults()
			if diff := cmp.Diff(tt.want, c.Roles[0].Network); diff != "" {
				t.Errorf("network (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBackoffDefaultsNeverContradictWhatWasGiven(t *testing.T) {
	for _, tt := range []struct {
		name        string
		given, want config.Backoff
	}{
		{"neither given", config.Backoff{}, config.Backoff{Min: 100, Max: 30_000}},
		{"a small max lowers min", config.Backoff{Max: 10}, config.Backoff{Min: 10, Max: 10}},
		{"a large min raises max", config.Backoff{Min: 60_000}, config.Backoff{Min: 60_000, Max: 60_000}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &config.Config{Services: []config.Service{{Name: "a", Argv: []string{"/a"}, Backoff: tt.given}}}
			c.SetDefaults()
			if got := c.Services[0].Backoff; got != tt.want {
				t.Errorf("back-off of %+v became %+v, want %+v", tt.given, got, tt.want)
			}
			if err := c.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestLoadRefuses(t *testing.T) {
	role := func(rest string) string { return `{"roles":[{"name":"net0","class":"net"` + rest + `}]}` }
	service := func(rest string) string { return `{"services":[{"name":"s","argv":["/s"]` + rest + `}]}` }
	for _, tt := range []struct{ name, text, want string }{
		{"no configuration at all", ``, "EOF"},
		{"a key it does not know", `{"hostnam":"x"}`, `"hostnam"`},
		{"a nested key it does not know", role(`,"network":{"methd":"dhcp"}`), `"methd"`},
		{"a value of the wrong type, naming its line", "{\n\"hostname\":\n5}", "line 3"},
		{"a second value after the first", "{}\n{}", "line 2: something follows"},
		{"a host name with a space", `{"hostname":"a b"}`, "hostname"},
		{"a module given as a path", `{"modules":["ok","kernel/e1000.ko"]}`, "modules[1]"},
		{"a module to prefetch given as a path", `{"prefetch":["a/b"]}`, "prefetch[0]"},
		{"a shadow that is neither on nor off", `{"shadow":"maybe"}`, "shadow"},
		{"a page for a role that is none", `{"status":{"role":"net9"}}`, `status.role: "net9"`},
		{"a page for everybody, without a role", `{"status":{"listen":"0.0.0.0:9100"}}`, `status.listen: "0.0.0.0:9100": want an address of the loopback`},
		{"a page for everybody by leaving the address out", `{"status":{"listen":":9100"}}`, "status.listen"},
		{"a page on loopback that a role is to lead to", `{"status":{"listen":"127.0.0.1:9100","role":"net0"},` + role("")[1:], "does not lead to"},
		{"a page at a name", `{"status":{"listen":"localhost:9100"}}`, "not a name"},
		{"a page without a port", `{"status":{"listen":"127.0.0.1"}}`, "want address:port"},
		{"a page on a port that only root may have", `{"status":{"listen":"127.0.0.1:80"}}`, "want a port from 1024"},
		{"a page on a port that there is not", `{"status":{"listen":"127.0.0.1:65536"}}`, "want a port from 1024"},
		{"a role without a name", `{"roles":[{"class":"net"}]}`, "roles[0].name: missing"},
		{"a role name that leaves no room for its TAP's", `{"roles":[{"name":"abcdefghijkl","class":"net"}]}`, "roles[0].name"},
		{"a role name with a slash", `{"roles":[{"name":"a/b","class":"net"}]}`, "roles[0].name"},
		{"the loopback's name", `{"roles":[{"name":"lo","class":"net"}]}`, "roles[0].name"},
		{"a role without a class", `{"roles":[{"name":"a"}]}`, "roles[0].class: missing"},
		{"an unknown class", `{"roles":[{"name":"a","class":"sound"}]}`, `roles[0].class: "sound"`},
		{"two roles of one name", `{"roles":[{"name":"a","class":"net"},{"name":"a","class":"net"}]}`, "roles[1].name"},
		{"a MAC that is none", role(`,"mac":"52:54"`), "roles[0].mac"},
		{"a MAC of a group", role(`,"mac":"01:00:5e:00:00:01"`), "roles[0].mac"},
		{"a standby's MAC that is none", role(`,"standby":{"match":{"mac":"x"}}`), "roles[0].standby.match.mac"},
		{"a standby's address without domain", role(`,"standby":{"match":{"address":"00:02.0"}}`), "roles[0].standby.match.address"},
		{"an unknown pairing", role(`,"standby":{"pair":"both"}`), "roles[0].standby.pair"},
		{"rules for a standby that is not to be", role(`,"standby":{"pair":"none","match":{"ids":"1af4:1000"}}`), "roles[0].standby.pair"},
		{"a MAC to match that is none", role(`,"match":{"mac":"x"}`), "roles[0].match.mac"},
		{"a PCI address without domain", role(`,"match":{"address":"00:02.0"}`), "roles[0].match.address"},
		{"ids without a device", role(`,"match":{"ids":"8086"}`), "roles[0].match.ids"},
		{"no position of a switch", role(`,"hasten":"yes"`), "roles[0].hasten"},
		{"no position of another", role(`,"shortcut":"auto"`), "roles[0].shortcut"},
		{"negative hold", role(`,"hold":{"bytes":-1}`), "roles[0].hold.bytes"},
		{"an unknown method", role(`,"network":{"method":"bootp"}`), "roles[0].network.method"},
		{"an unknown way of IPv6", role(`,"network":{"ipv6":"ra"}`), "roles[0].network.ipv6"},
		{"static without addresses", role(`,"network":{"method":"static"}`), "roles[0].network.addresses"},
		{"dhcp with addresses", role(`,"network":{"addresses":["10.0.0.1/8"]}`), "roles[0].network.addresses"},
		{"an address without a prefix", role(`,"network":{"method":"static","addresses":["10.0.0.1"]}`), "roles[0].network.addresses[0]"},
		{"a gateway on another network", role(`,"network":{"method":"static","addresses":["10.0.0.1/24"],"gateway":"10.0.1.1"}`), "roles[0].network.gateway"},
		{"a name server that is no address", role(`,"network":{"dns":["resolver"]}`), "roles[0].network.dns[0]"},
		{"a drive's module given as a path", `{"drive":["a/b"]}`, "drive[0]"},
		{"a key of two lines", `{"authorized_keys":["ssh-ed25519 QQ==\nssh-rsa QQ=="]}`, "authorized_keys[0]"},
		{"a key that is not of the kind before it", `{"authorized_keys":["ssh-ed25519 AAAAB3NzaC1yc2EAAA=="]}`, "authorized_keys[0]"},
		{"a route to an address with host bits", role(`,"network":{"routes":[{"to":"10.1.0.1/16","via":"10.0.0.1"}]}`), "roles[0].network.routes[0].to"},
		{"a route of two families", role(`,"network":{"routes":[{"to":"10.1.0.0/16","via":"fe80::1"}]}`), "roles[0].network.routes[0].via"},
		{"a route by way of another network", role(`,"network":{"method":"static","addresses":["10.0.0.1/24"],"routes":[{"to":"10.1.0.0/16","via":"10.0.1.1"}]}`), "roles[0].network.routes[0].via"},
		{"routes of no network", role(`,"network":{"method":"none","routes":[{"to":"10.1.0.0/16","via":"10.0.1.1"}]}`), "roles[0].network.routes: method none"},
		{"a VLAN without an id", role(`,"vlan":[{}]`), "roles[0].vlan[0].id"},
		{"a VLAN beyond the last", role(`,"vlan":[{"id":4095}]`), "roles[0].vlan[0].id"},
		{"a VLAN that is there twice", role(`,"vlan":[{"id":7},{"id":7}]`), "roles[0].vlan[1].id"},
		{"a VLAN's network is a network", role(`,"vlan":[{"id":7,"network":{"method":"static"}}]`), "roles[0].vlan[0].network.addresses"},
		{"a name for which an interface has no room", `{"roles":[{"name":"abcdefghijk","class":"net","vlan":[{"id":1000}]}]}`, "roles[0].vlan[0].id"},
		{"a VLAN with the name of a role", `{"roles":[{"name":"a","class":"net","vlan":[{"id":1}]},{"name":"a.1","class":"net"}]}`, "roles[0].vlan[0].id"},
		{"a service without a name", `{"services":[{"argv":["/s"]}]}`, "services[0].name: missing"},
		{"a service without a program", `{"services":[{"name":"s"}]}`, "services[0].argv: missing"},
		{"a program looked up in PATH", `{"services":[{"name":"s","argv":["s"]}]}`, "services[0].argv[0]"},
		{"two services of one name", `{"services":[{"name":"s","argv":["/s"]},{"name":"s","argv":["/s"]}]}`, "services[1].name"},
		{"an environment entry without =", service(`,"env":["K"]`), "services[0].env[0]"},
		{"a relative directory", service(`,"dir":"tmp"`), "services[0].dir"},

		{"an unknown restart policy", service(`,"restart":"sometimes"`), "services[0].restart"},
		{"a back-off that shrinks", service(`,"backoff_ms":{"min":5,"max":4}`), "services[0].backoff_ms.min"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := config.Load(strings.NewReader(tt.text))
			if err == nil {
				t.Fatalf("accepted as %+v", c)
			}
			if !errors.Is(err, config.ErrInvalid) {
				t.Errorf("error %v does not match ErrInvalid", err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q does not say %q", err, tt.want)
			}
		})
	}
}

func TestValidateReportsEveryFault(t *testing.T) {
	_, err := config.Load(strings.NewReader(`{"hostname":"-","shadow":"maybe"}`))
	for _, field := range []string{"hostname", "shadow"} {
		if err == nil || !strings.Contains(err.Error(), field+":") {
			t.Errorf("error %v does not name %s", err, field)
		}
	}
	var fe *config.FieldError
	if !errors.As(err, &fe) || fe.Field != "hostname" {
		t.Errorf("errors.As found %+v, want the field error of hostname", fe)
	}
}

func TestAuthorizedKeys(t *testing.T) {
	const blob = "AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
	for _, line := range []string{"ssh-ed25519 " + blob, "ssh-ed25519 " + blob + " ann@example.org", `from="10.0.0.0/8",command="echo a b" ssh-ed25519 ` + blob} {
		c := config.Config{AuthorizedKeys: []string{line}}
		c.SetDefaults()
		if err := c.Validate(); err != nil {
			t.Error(err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"roles":[{"name":"net0","class":"net","network":{"method":"static","addresses":["fe80::1/64"],"gateway":"fe80::2"}}]}`))
	f.Add([]byte(`{"services":[{"name":"s","argv":["/s","\u0000"]}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := config.Load(bytes.NewReader(text))
		if err != nil {
			if !errors.Is(err, config.ErrInvalid) {
				t.Fatalf("error %v does not match ErrInvalid", err)
			}
			return
		}
		configtest.RoundTrip(t, c)
	})
}
