// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package sbom writes down what an image is made of, as a document of SPDX 2.3
// (https://spdx.github.io/spdx-spec/v2.3/): components with their versions, files with
// their hashes, and of Go programs the modules that they were compiled of.
//
// The same inventory gives the same bytes. The package must never know how an image
// is made, nor what its parts are for.
package sbom

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// unknown is SPDX's word for what nobody has found out.
const unknown = "NOASSERTION"

// Inventory is what an image is made of.
type Inventory struct {
	Name       string
	Tool       string // that wrote the document, and its version: umbra-v1.2.3
	Created    time.Time
	Components []Component
	Files      []File

	// Modules are Go modules of which more is known than Go programs say.
	Modules map[string]Component
}

// Component is a part that has a version, and was made by others. Name is required.
type Component struct {
	Name    string
	Version string
	SHA256  string // in hex, of what it was taken from
	PURL    string // package URL (https://github.com/package-url/purl-spec)
	License string // SPDX licence expression
	Comment string
}

// File is a regular file of the image.
type File struct {
	Path   string // in the image, absolute
	Source string // this machine's file with its content

	// Modules are Go modules that it is compiled of and does not name itself.
	Modules []Component
}

// Write writes the document.
func (i Inventory) Write(w io.Writer) error {
	d := document{ids: make(map[common.ElementID]bool), packages: make(map[Component]common.ElementID)}
	d.Document = v2_3.Document{
		SPDXVersion: v2_3.Version, DataLicense: v2_3.DataLicense, SPDXIdentifier: "DOCUMENT", DocumentName: i.Name,
		CreationInfo: &v2_3.CreationInfo{
			Creators: []common.Creator{{CreatorType: "Tool", Creator: i.Tool}},
			Created:  i.Created.UTC().Format(time.RFC3339),
		},
	}
	image := d.component(Component{Name: i.Name})
	d.relate("DOCUMENT", common.TypeRelationshipDescribe, image)
	for _, c := range sorted(i.Components, func(c Component) string { return c.Name }) {
		d.relate(image, common.TypeRelationshipContains, d.component(c))
	}
	for _, f := range sorted(i.Files, func(f File) string { return f.Path }) {
		id, err := d.file(f)
		if err != nil {
			return fmt.Errorf("SBOM: %s: %w", f.Path, err)
		}
		d.relate(image, common.TypeRelationshipContains, id)
		modules, err := i.modules(f.Source)
		if err != nil {
			return fmt.Errorf("SBOM: Go modules of %s: %w", f.Path, err)
		}
		for _, m := range append(modules, f.Modules...) {
			d.relate(id, common.TypeRelationshipStaticLink, d.component(m))
		}
	}
	// A namespace is to be another for every content.
	content, err := d.encode()
	if err != nil {
		return fmt.Errorf("SBOM: %w", err)
	}
	sum := sha256.Sum256(content)
	d.DocumentNamespace = "https://github.com/umbra-vm/umbra/spdx/" + i.Name + "-" + hex.EncodeToString(sum[:])
	if content, err = d.encode(); err != nil {
		return fmt.Errorf("SBOM: %w", err)
	}
	_, err = w.Write(content)
	return err
}

func sorted[T any](all []T, key func(T) string) []T {
	return slices.SortedStableFunc(slices.Values(all), func(a, b T) int { return cmp.Compare(key(a), key(b)) })
}

// document is one that grows.
type document struct {
	v2_3.Document
	ids      map[common.ElementID]bool
	packages map[Component]common.ElementID
}

// component adds a component, unless it is there, and returns its id.
func (d *document) component(c Component) common.ElementID {
	if id, known := d.packages[c]; known {
		return id
	}
	id := d.id("Package-" + c.Name + "-" + c.Version)
	d.packages[c] = id
	p := &v2_3.Package{
		PackageName: c.Name, PackageSPDXIdentifier: id, PackageVersion: c.Version, PackageDownloadLocation: unknown,
		PackageLicenseConcluded: unknown, PackageLicenseDeclared: cmp.Or(c.License, unknown), PackageCopyrightText: unknown,
		PackageComment: c.Comment,
	}
	if c.SHA256 != "" {
		p.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: c.SHA256}}
	}
	if c.PURL != "" {
		p.PackageExternalReferences = []*v2_3.PackageExternalReference{{
			Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: c.PURL,
		}}
	}
	d.Packages = append(d.Packages, p)
	return id
}

// file adds a file and returns its id. SPDX wants SHA-1 of each (2.3, 8.4), and a name that
// is relative to the root of what it is in (8.1).
func (d *document) file(f File) (common.ElementID, error) {
	sums, err := checksums(f.Source)
	if err != nil {
		return "", err
	}
	id := d.id("File" + f.Path)
	d.Files = append(d.Files, &v2_3.File{
		FileName: "." + f.Path, FileSPDXIdentifier: id, Checksums: sums,
		LicenseConcluded: unknown, LicenseInfoInFiles: []string{unknown}, FileCopyrightText: unknown,
	})
	return id, nil
}

func (d *document) relate(a common.ElementID, how string, b common.ElementID) {
	d.Relationships = append(d.Relationships, &v2_3.Relationship{
		RefA: common.MakeDocElementID("", string(a)), RefB: common.MakeDocElementID("", string(b)), Relationship: how,
	})
}

// notInID are the characters that an id may not have (SPDX 2.3, 7.2).
var notInID = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// id returns an id that looks like the name and that no other element has.
func (d *document) id(name string) common.ElementID {
	base := strings.Trim(notInID.ReplaceAllString(name, "-"), "-")
	id := common.ElementID(base)
	for n := 2; d.ids[id]; n++ {
		id = common.ElementID(fmt.Sprintf("%s-%d", base, n))
	}
	d.ids[id] = true
	return id
}

func (d *document) encode() ([]byte, error) {
	var text bytes.Buffer
	err := spdxjson.Write(&d.Document, &text, spdxjson.Indent("  "), spdxjson.EscapeHTML(false))
	return text.Bytes(), err
}
