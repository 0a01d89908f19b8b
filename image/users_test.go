// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/umbra-vm/umbra/init/config"
)

func TestFindUser(t *testing.T) {
	const (
		passwd = "root:x:0:0:root:/root:/bin/sh\nredis:x:101:102::/var/lib/redis:/bin/false\n"
		group  = "root:x:0:\nredis:x:102:\ntty:x:5:redis,other\nssl:x:107:redis\nadm:x:4:\n"
	)
	for _, tt := range []struct {
		name, spec string
		want       config.User
		err        string
	}{
		{"a user is in the groups that list him", "redis",
			config.User{UID: 101, GID: 102, Groups: []int{5, 107}, Name: "redis", Home: "/var/lib/redis"}, ""},
		{"a group that is given is the only one", "redis:adm",
			config.User{UID: 101, GID: 4, Groups: []int{}, Name: "redis", Home: "/var/lib/redis"}, ""},
		{"numbers need no entry", "900:901", config.User{UID: 900, GID: 901, Groups: []int{}, Name: "900:901", Home: "/"}, ""},
		{"a number that has an entry is that user", "101",
			config.User{UID: 101, GID: 102, Groups: []int{5, 107}, Name: "redis", Home: "/var/lib/redis"}, ""},
		{"a user there is not", "nginx", config.User{}, "nginx"},
		{"a group there is not", "redis:www", config.User{}, "www"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u, err := findUser([]byte(passwd), []byte(group), tt.spec)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("%+v, error %v, want one that names %s", u, err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, *u); diff != "" {
				t.Errorf("user (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUsersAreThoseOfTheImage(t *testing.T) {
	dir := project(t, simple+"user = \"app\"\ngroups = [\"log\"]\n[image]\nfiles = [\"passwd:/etc/passwd\", \"group:/etc/group\"]\n")
	for name, content := range map[string]string{"passwd": "app:x:7:8::/home/app:/bin/sh\n", "group": "log:x:9:\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b := mustBuild(t, dir, "out")
	guest, err := config.Load(strings.NewReader(unpack(t, filepath.Join(b.Dir, b.Initramfs))[config.Path]))
	if err != nil {
		t.Fatal(err)
	}
	want := &config.User{UID: 7, GID: 8, Groups: []int{9}, Name: "app", Home: "/home/app"}
	if diff := cmp.Diff(want, guest.Services[0].User); diff != "" {
		t.Errorf("user in the guest (-want +got):\n%s", diff)
	}
}

func TestAUserThatTheImageDoesNotHaveIsRefused(t *testing.T) {
	for _, tt := range []struct{ name, keys, want string }{
		{"a user", "user = \"redis\"\n", "app.toml:13: service[0].user: \"redis\": "},
		{"a group", "user = \"nobody\"\ngroups = [\"ssl\"]\n", "app.toml:14: service[0].groups: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := project(t, simple+tt.keys)
			if _, err := build(t, dir, "out"); err == nil || !strings.HasPrefix(err.Error(), filepath.Join(dir, tt.want)) {
				t.Errorf("error %v\ndoes not start %q", err, tt.want)
			}
		})
	}
}
