// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package config_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/umbra-vm/umbra/init/config"
)

func TestConfinementDefaults(t *testing.T) {
	for _, tt := range []struct {
		name            string
		given           config.Service
		noNewPrivileges config.Switch
		restart         config.Restart
	}{
		{"root, who may do everything", config.Service{}, config.Off, config.RestartAlways},
		{"another user is not to become root", config.Service{User: &config.User{UID: 1}}, config.On, config.RestartAlways},
		{"nor is one who gave up capabilities, and be it all", config.Service{Capabilities: []string{}}, config.On, config.RestartAlways},
		{"nor is one with a read-only root", config.Service{ReadOnlyRoot: config.On}, config.On, config.RestartAlways},
		{"but he may be let", config.Service{User: &config.User{UID: 1}, NoNewPrivileges: config.Off}, config.Off, config.RestartAlways},
		{"a oneshot that is done is done", config.Service{Type: config.TypeOneshot}, config.Off, config.RestartOnFailure},
		{"or is tried once", config.Service{Type: config.TypeOneshot, Restart: config.RestartNever}, config.Off, config.RestartNever},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.given.Name, tt.given.Argv = "s", []string{"/s"}
			c := &config.Config{Services: []config.Service{tt.given}}
			c.SetDefaults()
			if s := c.Services[0]; s.NoNewPrivileges != tt.noNewPrivileges || s.Restart != tt.restart || s.LogBytes != config.DefaultLogBytes {
				t.Errorf("became %+v", s)
			}
			if err := c.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestServicesRefuse(t *testing.T) {
	service := func(rest string) string { return `{"services":[{"name":"s","argv":["/s"]` + rest + `}]}` }
	pair := func(a, b string) string {
		return `{"services":[{"name":"a","argv":["/a"],"needs":` + a + `},{"name":"b","argv":["/b"],"needs":` + b + `}]}`
	}
	for _, tt := range []struct{ name, text, want string }{
		{"a need nobody meets", pair(`["c"]`, `[]`), `services[0].needs[0]: "c": no role or service`},
		{"a service that needs itself", pair(`["a"]`, `[]`), `services[0].needs[0]: "a": a waits for itself: a needs a`},
		{"a circle", pair(`["b"]`, `["a"]`), `services[1].needs[0]: "a": b waits for itself: b needs a needs b`},
		{"a name of init's own", `{"services":[{"name":"shadowd","argv":["/s"]}]}`, "services[0].name"},
		{"a name too long for syslog", `{"services":[{"name":"` + strings.Repeat("s", 49) + `","argv":["/s"]}]}`, "services[0].name"},
		{"a role's name", `{"roles":[{"name":"s","class":"net"}],"services":[{"name":"s","argv":["/s"]}]}`, "services[0].name"},
		{"an unknown type", service(`,"type":"forking"`), "services[0].type"},
		{"a oneshot without an end", service(`,"type":"oneshot","restart":"always"`), "services[0].restart"},
		{"a negative time", service(`,"stop_timeout_ms":-1`), "services[0].stop_timeout_ms"},
		{"an end that never comes", service(`,"stop_timeout_ms":86400000`), "services[0].stop_timeout_ms"},
		{"a ring that would fill the memory", service(`,"log_bytes":1000000000`), "services[0].log_bytes"},
		{"a negative limit", service(`,"limits":{"memory_mb":-1}`), "services[0].limits.memory_mb"},
		{"a weight that the kernel refuses", service(`,"limits":{"cpu_weight":10001}`), "services[0].limits.cpu_weight"},
		{"an unknown capability", service(`,"capabilities":["CAP_CHOWN","CAP_ALL"]`), `services[0].capabilities[1]: "CAP_ALL"`},
		{"a capability by its number", service(`,"capabilities":["5"]`), "services[0].capabilities[0]"},
		{"a user's number that means none", service(`,"user":{"uid":4294967295,"gid":0}`), "services[0].user"},
		{"a switch in no position", service(`,"read_only_root":"yes"`), "services[0].read_only_root"},
		{"what is writable where all is", service(`,"writable":["/data"]`), "services[0].writable[0]"},
		{"a relative directory", service(`,"read_only_root":"on","writable":["data"]`), "services[0].writable[0]"},
		{"a root that is writable after all", service(`,"read_only_root":"on","writable":["/"]`), "services[0].writable[0]"},
		{"a server by its name", `{"log":{"syslog":"udp://logs:514"}}`, "log.syslog"},
		{"a server of another protocol", `{"log":{"syslog":"http://10.0.0.1"}}`, "log.syslog"},
		{"a server with a path", `{"log":{"syslog":"udp://10.0.0.1:514/x"}}`, "log.syslog"},
		{"a server without a scheme", `{"log":{"syslog":"10.0.0.1"}}`, "log.syslog"},
		{"a time server with a scheme", `{"ntp":{"servers":["ntp://a"]}}`, `ntp.servers[0]: "ntp://a"`},
		{"half an address of one", `{"ntp":{"servers":["192.0.2"]}}`, `ntp.servers[0]: "192.0.2"`},
		{"a port of one that is none", `{"ntp":{"servers":["a:0"]}}`, `ntp.servers[0]: "a:0"`},
		{"a time server twice", `{"ntp":{"servers":["a","a"]}}`, `ntp.servers[1]: "a"`},
		{"too many of them", `{"ntp":{"servers":["a","b","c","d","e","f","g","h","i"]}}`, `ntp.servers: 9: want 8 at most`},
		{"time servers of whom, is not said so", `{"ntp":{"dhcp":"yes"}}`, `ntp.dhcp: "yes"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := config.Load(strings.NewReader(tt.text))
			if err == nil {
				t.Fatalf("accepted as %+v", c)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q does not say %q", err, tt.want)
			}
		})
	}
}

// Two hundred services, each of which needs the two before it: there are more ways through
// them than anybody could go.
func TestManyNeedsAreCheckedInTime(t *testing.T) {
	c := new(config.Config)
	for i := range 200 {
		s := config.Service{Name: string(rune('A'+i%26)) + strings.Repeat("x", i/26), Argv: []string{"/s"}}
		for j := max(0, i-2); j < i; j++ {
			s.Needs = append(s.Needs, c.Services[j].Name)
		}
		c.Services = append(c.Services, s)
	}
	c.SetDefaults()
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
}

func TestTarget(t *testing.T) {
	for _, tt := range []struct{ syslog, network, addr string }{
		{"", "", "invalid AddrPort"},
		{"udp://10.0.2.2", "udp", "10.0.2.2:514"},
		{"tcp://10.0.2.2:601", "tcp", "10.0.2.2:601"},
		{"udp://[fd00::1]", "udp", "[fd00::1]:514"},
		{"tcp://[fd00::1]:601", "tcp", "[fd00::1]:601"},
	} {
		network, addr, err := config.Log{Syslog: tt.syslog}.Target()
		if diff := cmp.Diff([]string{tt.network, tt.addr}, []string{network, addr.String()}); diff != "" || err != nil {
			t.Errorf("%q: %v (-want +got):\n%s", tt.syslog, err, diff)
		}
	}
}
