// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"

	"github.com/moby/sys/user"
	"github.com/umbra-vm/umbra/image/initramfs"
	"github.com/umbra-vm/umbra/init/config"
)

// user returns whom the service runs as, as far as that is known without an image.
func (s *Service) user() *config.User {
	if s.User == "" {
		return nil
	}
	return &config.User{Name: s.User}
}

func (c *Config) validateUsers() (errs []error) {
	for i, s := range c.Services {
		if s.User == "" && len(s.Groups) > 0 {
			errs = append(errs, c.fail(fmt.Sprintf("service[%d].groups", i), "root needs none; want a user too"))
		}
	}
	return errs
}

// findUsers completes the users of services by what the image says of them: the guest
// itself looks nothing up.
func (c *Config) findUsers(a *initramfs.Archive, guest *config.Config) error {
	passwd, err := content(a, "/etc/passwd")
	if err != nil {
		return err
	}
	group, err := content(a, "/etc/group")
	if err != nil {
		return err
	}
	var errs []error
	for i, s := range c.Services {
		if s.User == "" {
			continue
		}
		u, err := findUser(passwd, group, s.User)
		if err != nil {
			errs = append(errs, c.fail(fmt.Sprintf("service[%d].user", i), "%q: %w: give the image an /etc/passwd and /etc/group, by files", s.User, err))
			continue
		}
		more, err := user.GetAdditionalGroups(s.Groups, bytes.NewReader(group))
		if err != nil {
			errs = append(errs, c.fail(fmt.Sprintf("service[%d].groups", i), "%w: give the image an /etc/group, by files", err))
			continue
		}
		u.Groups = append(u.Groups, more...)
		guest.Services[i].User = u
	}
	return errors.Join(errs...)
}

// findUser returns the user that a description names: USER, who is in all groups that
// list him, or USER:GROUP, who is in that one. Either may be a number.
func findUser(passwd, group []byte, name string) (*config.User, error) {
	found, err := user.GetExecUser(name, nil, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return nil, err
	}
	u := &config.User{UID: found.Uid, GID: found.Gid, Groups: found.Sgids, Home: found.Home, Name: name}
	// What is in the environment as USER is the name, if there is one.
	entries, err := user.ParsePasswdFilter(bytes.NewReader(passwd), func(e user.User) bool { return e.Uid == u.UID })
	if err != nil {
		return nil, err
	}
	if len(entries) > 0 {
		u.Name = entries[0].Name
	}
	if u.Home == "" {
		u.Home = "/"
	}
	return u, nil
}

// content returns a file of the image, nothing if it does not have it.
func content(a *initramfs.Archive, name string) ([]byte, error) {
	text, err := a.Content(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}
