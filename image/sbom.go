// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/umbra-vm/umbra/image/kernel"
	"github.com/umbra-vm/umbra/image/sbom"
)

// epochVariable sets the time of what is built
// (https://reproducible-builds.org/specs/source-date-epoch/).
const epochVariable = "SOURCE_DATE_EPOCH"

// writeSBOM writes what the image is made of to the file of that name.
func (c *Config) writeSBOM(p *parts, name string) (err error) {
	created, err := sbomTime(p.kernel)
	if err != nil {
		return err
	}
	in := sbom.Inventory{
		Name: c.Image.Name, Tool: "umbra-" + Version(), Created: created,
		Modules: map[string]sbom.Component{modulePath: {Name: modulePath, Version: Version(), License: "BSD-3-Clause"}},
	}
	from := distribution()
	k := p.kernel.Origin
	if k.Package == "" {
		in.Components = append(in.Components, sbom.Component{
			Name: "linux", Version: p.kernel.Release, SHA256: k.SHA256, License: "GPL-2.0-only",
		})
	} else {
		in.Components = append(in.Components, debianComponent(from, PackageManifest{k.Package, k.Version, k.SHA256}, "amd64"))
	}
	ofPackage := make(map[string]bool)
	for _, pkg := range p.pkgs {
		manifest := PackageManifest{pkg.Name, pkg.Version, pkg.SHA256}
		in.Components = append(in.Components, debianComponent(from, manifest, archOf(pkg.File)))
		for _, e := range pkg.entries {
			if e.Source != "" {
				ofPackage[e.Source] = true
			}
		}
	}
	if p.stub != nil {
		in.Components = append(in.Components, debianComponent(from, p.stub.pkg, "amd64"))
	}
	if p.bios != nil {
		for _, pkg := range p.bios.pkgs {
			in.Components = append(in.Components, debianComponent(from, pkg, "all"))
		}
	}
	for at, source := range p.files {
		if ofPackage[source] {
			continue
		}
		f := sbom.File{Path: at, Source: source}
		if source == p.tools {
			f.Modules = p.toolModules
		}
		in.Files = append(in.Files, f)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("SBOM: %w", err)
	}
	return errors.Join(in.Write(f), f.Close())
}

// debianComponent is a package for an architecture.
func debianComponent(from string, p PackageManifest, arch string) sbom.Component {
	return sbom.Component{
		Name: p.Name, Version: p.Version, SHA256: p.SHA256, PURL: sbom.DebianPURL(from, p.Name, p.Version, arch),
	}
}

// archOf is the architecture in a package's file name, name_version_architecture.deb.
func archOf(file string) string {
	return strings.TrimSuffix(file[strings.LastIndex(file, "_")+1:], filepath.Ext(file))
}

// sbomTime is when the document is said to have been made: when the user says, or the
// kernel was, so that it is the same for the same image. SPDX wants some time.
func sbomTime(k *kernel.Kernel) (time.Time, error) {
	if text := os.Getenv(epochVariable); text != "" {
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil || seconds < 0 {
			return time.Time{}, fmt.Errorf("SBOM: %s=%q is no number of seconds", epochVariable, text)
		}
		return time.Unix(seconds, 0), nil
	}
	if day, ok := kernel.Built(k.Image); ok {
		return day, nil
	}
	return time.Unix(0, 0), nil
}

// distribution is the one whose packages this machine's apt knows (os-release(5)).
func distribution() string {
	text, err := os.ReadFile("/etc/os-release")
	if m := regexp.MustCompile(`(?m)^ID="?([a-z0-9._-]+)"?$`).FindSubmatch(text); err == nil && m != nil {
		return string(m[1])
	}
	return "debian"
}
