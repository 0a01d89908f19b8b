// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package sbom

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"io"
	"net/url"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spdx/tools-golang/spdx/v2/common"
)

func checksums(name string) ([]common.Checksum, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	one, two := sha1.New(), sha256.New()
	if _, err := io.Copy(io.MultiWriter(one, two), f); err != nil {
		return nil, err
	}
	return []common.Checksum{
		{Algorithm: common.SHA1, Value: hex.EncodeToString(one.Sum(nil))},
		{Algorithm: common.SHA256, Value: hex.EncodeToString(two.Sum(nil))},
	}, nil
}

// modules returns what a Go program says that it was compiled of: the standard library,
// its own module, and those it requires. A file of any other kind has none.
func (i Inventory) modules(name string) ([]Component, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	magic := make([]byte, 4)
	if _, err := io.ReadFull(f, magic); err != nil || !bytes.Equal(magic, []byte("\x7fELF")) {
		return nil, nil
	}
	info, err := buildinfo.Read(f)
	if err != nil {
		return nil, nil // an ELF file, and not Go's
	}
	version := strings.TrimPrefix(info.GoVersion, "go")
	out := []Component{{Name: "stdlib", Version: version, PURL: GoPURL("stdlib", version), License: "BSD-3-Clause"}}
	for _, m := range append([]*debug.Module{&info.Main}, info.Deps...) {
		if m.Path != "" {
			out = append(out, i.module(m))
		}
	}
	return out, nil
}

func (i Inventory) module(m *debug.Module) Component {
	if m.Replace != nil {
		m = m.Replace
	}
	if c, ok := i.Modules[m.Path]; ok {
		return c
	}
	c := Component{Name: m.Path}
	if m.Version != "" && m.Version != "(devel)" {
		c.Version, c.PURL = m.Version, GoPURL(m.Path, m.Version)
	}
	if m.Sum != "" {
		c.Comment = "go.sum: " + m.Sum
	}
	return c
}

// GoPURL is the package URL of a Go module.
func GoPURL(path, version string) string {
	return "pkg:golang/" + path + "@" + url.QueryEscape(version)
}

// DebianPURL is the package URL of a package of a distribution that is made of Debian's
// packages.
func DebianPURL(distribution, name, version, arch string) string {
	return "pkg:deb/" + distribution + "/" + name + "@" + url.QueryEscape(version) + "?arch=" + arch
}
