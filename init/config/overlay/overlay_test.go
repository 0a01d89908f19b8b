// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package overlay_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/config/configtest"
	"github.com/umbra-vm/umbra/init/config/overlay"
)

// image is what an image brings along.
const image = `{"hostname": "built", "modules": ["tun"],
"roles": [
  {"name": "net0", "class": "net", "match": {"ids": "8086:100e"}, "hold": {"bytes": 1048576},
   "network": {"method": "static", "addresses": ["10.0.2.15/24"], "gateway": "10.0.2.2"}},
  {"name": "net1", "class": "net"}],
"services": [{"name": "app", "argv": ["/bin/app", "-v"], "env": ["A=1", "B=2"], "needs": ["net0"]}]}`

// key is a public key.
const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f ann"

// named is a document with its source.
type named struct{ source, text string }

func apply(docs ...named) (*config.Config, error) {
	var ds []*overlay.Document
	for _, n := range docs {
		d, err := overlay.Parse(n.source, []byte(n.text))
		if err != nil {
			return nil, err
		}
		ds = append(ds, d)
	}
	return overlay.Apply([]byte(image), ds...)
}

func mustApply(t *testing.T, docs ...named) *config.Config {
	t.Helper()
	c, err := apply(docs...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestApply(t *testing.T) {
	none := mustApply(t)
	for _, tt := range []struct {
		rule string
		docs []string
		want func(*config.Config)
	}{
		{"a key of the image takes the place of the image's", []string{"[image]\nhostname = 'a'\nauthorized_keys = ['" + key + "']\ndebug = true"},
			func(c *config.Config) { c.Hostname, c.AuthorizedKeys, c.Debug = "a", []string{key}, true }},
		{"the last document counts", []string{"[image]\nhostname = 'a'\nshadow = 'off'", "[image]\nhostname = 'b'"},
			func(c *config.Config) { c.Hostname, c.Shadow = "b", config.Off }},
		{"an empty value is the default again", []string{"[image]\nhostname = ''"},
			func(c *config.Config) { c.Hostname = "umbra" }},
		{"a role is found by its name, and what is not said of it stays", []string{"[[role]]\nname = 'net0'\nmatch.mac = '52:54:00:00:00:01'"},
			func(c *config.Config) { c.Roles[0].Match.MAC = "52:54:00:00:00:01" }},
		{"a network is merged by keys", []string{"[[role]]\nname = 'net0'\n[role.network]\ngateway = '10.0.2.3'\ndns = ['10.0.2.4']"},
			func(c *config.Config) {
				c.Roles[0].Network.Gateway, c.Roles[0].Network.DNS = "10.0.2.3", []string{"10.0.2.4"}
			}},
		{"with another method it is another network", []string{"[[role]]\nname = 'net0'\nnetwork.method = 'dhcp'"},
			func(c *config.Config) {
				c.Roles[0].Network = config.Network{Method: config.MethodDHCP, IPv6: config.IPv6Auto}
			}},
		{"a role can be added, with VLANs and routes", []string{`[[role]]
name = "net2"
class = "net"
network = { method = "static", addresses = ["10.9.0.1/24"], routes = [{ to = "10.8.0.0/16", via = "10.9.0.9" }] }
[[role.vlan]]
id = 100`},
			func(c *config.Config) {
				c.Roles = append(c.Roles, config.Role{
					Name: "net2", Class: config.ClassNet, Hasten: config.Off, Shortcut: config.Off,
					Network: config.Network{Method: config.MethodStatic, IPv6: config.IPv6None, Addresses: []string{"10.9.0.1/24"},
						Routes: []config.Route{{To: "10.8.0.0/16", Via: "10.9.0.9"}}},
					VLANs: []config.VLAN{{ID: 100, Network: config.Network{Method: config.MethodDHCP, IPv6: config.IPv6Auto}}},
					Hold:  config.Hold{Bytes: config.DefaultHoldBytes, Frames: config.DefaultHoldFrames},
				})
			}},
		{"arguments are replaced, variables by their names", []string{
			"[[service]]\nname = 'app'\nexec = ['/bin/app', '-q']\nenv = ['B=3', 'C=4']", "[[service]]\nname = 'app'\nenv = ['C=5']"},
			func(c *config.Config) {
				c.Services[0].Argv, c.Services[0].Env = []string{"/bin/app", "-q"}, []string{"A=1", "B=3", "C=5"}
			}},
		{"who is asked for the time is merged by keys", []string{"[ntp]\nservers = ['a']\ndhcp = 'on'", "[ntp]\nservers = ['b']"},
			func(c *config.Config) { c.NTP = config.NTP{Servers: []string{"b"}, DHCP: config.On} }},
		{"another disk for data is another one", []string{"[data]\nserial = 'a'", "[data]\npartition = 'b'"},
			func(c *config.Config) { c.Data = config.Data{Partition: "b"} }},
		{"a document may be empty", []string{"", "# nothing"}, func(*config.Config) {}},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			var docs []named
			for _, text := range tt.docs {
				docs = append(docs, named{"doc", text})
			}
			want := mustApply(t)
			tt.want(want)
			if diff := cmp.Diff(want, mustApply(t, docs...), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("configuration (-want +got):\n%s", diff)
			}
		})
	}
	if diff := cmp.Diff(none, mustApply(t)); diff != "" {
		t.Errorf("documents have changed the image (-before +after):\n%s", diff)
	}
}

func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		rule string
		docs []named
		want string
	}{
		{"a key that does not exist", []named{{"fw_cfg a", "[image]\n\nhostnam = 'a'"}}, "fw_cfg a: line 3: image.hostnam: no such key"},
		{"a table that does not exist", []named{{"x", "[rolle]"}}, "x: line 1: rolle: no such key"},
		{"a key of a role that does not exist", []named{{"x", "[[role]]\nname = 'net0'\nnetwork.gatway = ''"}}, "x: line 3: role[0].network.gatway: no such key"},
		{"the guest's own name of a key", []named{{"x", "[[service]]\nname = 'app'\nargv = ['/a']"}}, "x: line 3: service[0].argv: no such key"},
		{"what is decided at build", []named{{"x", "[drivers]\nmodules = ['e1000']"}}, "x: line 1: drivers: is decided when the image is built"},
		{"whom a service runs as, which the image's files tell", []named{{"x", "[[service]]\nname = 'app'\nuser = 'a'"}}, "x: line 3: service[0].user: is decided when the image is built"},
		{"a syslog server", []named{{"x", "[log]\nsyslog = 'tcp:/a'"}}, `x: line 2: log.syslog: "tcp:/a": want `},
		{"a time server", []named{{"x", "[ntp]\nservers = ['a b']"}}, `x: line 2: ntp.servers[0]: "a b": want `},
		{"a file", []named{{"x", "[image]\nfiles = []"}}, "x: line 2: image.files: is decided when the image is built"},
		{"modules, which are not for the image's table", []named{{"x", "[image]\nmodules = []"}}, "x: line 2: image.modules: no such key"},
		{"a value of another type", []named{{"x", "[image]\ndebug = 'yes'"}}, "x: line 2: image.debug: want true or false"},
		{"a list where a table is wanted", []named{{"x", "image = []"}}, "x: line 1: image: want a table"},
		{"a table where a list is wanted", []named{{"x", "[role]\nname = 'net0'"}}, "x: line 1: role: want a list"},
		{"an item of a list of another type", []named{{"x", "[[service]]\nname = 'app'\nenv = ['A=1',\n2]"}}, "x: line 4: service[0].env[1]: want a string"},
		{"a fraction", []named{{"x", "[[role]]\nname = 'net0'\nhold.bytes = 1.5"}}, "x: line 3: role[0].hold.bytes: want an integer"},
		{"what is no TOML", []named{{"x", "[image]\nhostname = a"}}, "x: line 2: "},
		{"a role without a name", []named{{"x", "[[role]]\nmac = ''"}}, "x: line 1: role[0]: has no name"},
		{"the same role twice", []named{{"x", "[[role]]\nname = 'a'\n[[role]]\nname = 'a'"}}, `x: line 4: role[1].name: "a": already the name of role[0]`},
		{"a document that is too large", []named{{"x", strings.Repeat("#\n", overlay.MaxSize)}}, "x: larger than 65536 bytes"},
		{"a wrong value is told of the document that brought it", []named{{"x", "[image]\nhostname = '-'"}, {"y", "[image]\ndebug = true"}},
			`x: line 2: image.hostname: "-": want letters`},
		{"of the last one that has the key", []named{{"x", "[image]\nhostname = 'a'"}, {"y", "image.hostname = '-'"}},
			`y: line 1: image.hostname: "-": want letters`},
		{"the place of a role may be another in the document", []named{{"x", "[[role]]\nname = 'net1'\nnetwork = {method = 'static', addresses = ['x']}"}},
			`x: line 3: role[0].network.addresses[0]: "x": want address/prefix`},
		{"what is missing is told of what is around it", []named{{"x", "[[role]]\nname = 'net1'\n[role.network]\nmethod = 'static'"}, {"y", "[[role]]\nname = 'net1'"}},
			"x: line 3: role[0].network.addresses: method static needs at least one"},
		{"a service's program", []named{{"x", "[[service]]\nname = 'app'\nexec = ['app']"}}, `x: line 3: service[0].exec[0]: "app": want an absolute path`},
		{"a new service without a program", []named{{"x", "[[service]]\nname = 'b'"}}, "x: line 1: service[0].exec: missing"},
		{"a need that the image's roles do not meet", []named{{"x", "[[service]]\nname = 'app'\nneeds = ['net9']"}}, `x: line 3: service[0].needs[0]: "net9": no role`},
		{"a line that is no public key", []named{{"x", "[image]\nauthorized_keys = ['" + key + "', 'ssh-rsa QQ==']"}}, `x: line 2: image.authorized_keys[1]: "ssh-rsa QQ==": want a public key`},
		{"a route by way of nowhere", []named{{"x", "[[role]]\nname = 'net0'\n[role.network]\nroutes = [{to = '10.1.0.0/16', via = '10.9.0.1'}]"}},
			`x: line 4: role[0].network.routes[0].via: "10.9.0.1": is in none of the networks`},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			c, err := apply(tt.docs...)
			if err == nil {
				t.Fatalf("accepted as %+v", c)
			}
			if !errors.Is(err, config.ErrInvalid) || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("error %q\ndoes not start with %q, or is not ErrInvalid", err, tt.want)
			}
		})
	}
}

func TestEveryFaultIsTold(t *testing.T) {
	_, err := apply(named{"x", "[image]\nhostnam = 'a'\n[[role]]\nname = 'net0'\nhold = 1"})
	if err == nil || len(strings.Split(err.Error(), "\n")) != 2 {
		t.Errorf("error %v, want two lines", err)
	}
}

func TestDocumentsMadeOfMetadata(t *testing.T) {
	c, err := overlay.Apply([]byte(image), overlay.Hostname("m", "a"), overlay.AuthorizedKeys("m", []string{key}))
	if err != nil || c.Hostname != "a" || len(c.AuthorizedKeys) != 1 {
		t.Errorf("got %+v, %v", c, err)
	}
	_, err = overlay.Apply([]byte(image), overlay.Hostname("meta-data", "-"))
	if err == nil || !strings.HasPrefix(err.Error(), `meta-data: image.hostname: "-"`) {
		t.Errorf("error %v does not name the source", err)
	}
}

// The keys of a role are called the same in TOML and in JSON: that is what merging
// relies on.
func TestNamesOfKeysAgree(t *testing.T) {
	var walk func(reflect.Type)
	walk = func(of reflect.Type) {
		for of.Kind() == reflect.Slice || of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		if of.Kind() != reflect.Struct {
			return
		}
		for i := range of.NumField() {
			f := of.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if toml := f.Tag.Get("toml"); name == "" || toml != name {
				t.Errorf("%s.%s is %q in JSON and %q in TOML", of, f.Name, name, toml)
			}
			walk(f.Type)
		}
	}
	walk(reflect.TypeFor[config.Role]())
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"[image]\nhostname = 'a'\nauthorized_keys = ['" + key + "']",
		"[[role]]\nname = 'net0'\nnetwork = { method = 'static', addresses = ['::1/64'] }\n[[role.vlan]]\nid = 5",
		"[[service]]\nname = 'app'\nenv = ['A=2']\nbackoff_ms.min = 1",
		"a.b = 1979-05-27\nrole = [1, {}]\nimage = nan",
		"[[role]]\nname = 'net0'\n[role.match]\n[role.match.mac]",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := overlay.Parse("doc", text)
		if err != nil {
			for _, line := range strings.Split(err.Error(), "\n") {
				if !errors.Is(err, config.ErrInvalid) || !strings.HasPrefix(line, "doc: ") {
					t.Fatalf("error %q does not name the document", line)
				}
			}
			return
		}
		c, err := overlay.Apply([]byte(image), d)
		if err != nil {
			if !errors.Is(err, config.ErrInvalid) {
				t.Fatalf("error %v is not ErrInvalid", err)
			}
			return
		}
		configtest.RoundTrip(t, c)
	})
}
