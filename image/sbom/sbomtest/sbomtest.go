// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package sbomtest holds a document to the rules of SPDX 2.3 in its JSON form
// (https://spdx.github.io/spdx-spec/v2.3/). Rules are named by their clause there.
//
// It knows the specification, and must never know who wrote the document.
package sbomtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/github/go-spdx/v2/spdxexp"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdxlib"
)

// doc is a document as it is written, of what the rules are about.
type doc struct {
	SPDXID, SPDXVersion, DataLicense, Name, DocumentNamespace string

	CreationInfo struct {
		Created  string
		Creators []string
	}
	Packages                   []pkg
	Files                      []file
	Relationships              []relationship
	HasExtractedLicensingInfos []struct{ LicenseID string }
}

type checksum struct{ Algorithm, ChecksumValue string }

type pkg struct {
	SPDXID, Name, DownloadLocation    string
	LicenseConcluded, LicenseDeclared string
	FilesAnalyzed                     *bool
	PackageVerificationCode           *struct{ PackageVerificationCodeValue string }
	Checksums                         []checksum
	ExternalRefs                      []struct{ ReferenceCategory, ReferenceType, ReferenceLocator string }
	LicenseInfoFromFiles              []string
}

type file struct {
	SPDXID, FileName, LicenseConcluded string
	LicenseInfoInFiles                 []string
	Checksums                          []checksum
}

type relationship struct{ SPDXElementID, RelatedSPDXElement, RelationshipType string }

const (
	document = "SPDXRef-DOCUMENT"
	none     = "NONE"
	unknown  = "NOASSERTION"
	describe = "DESCRIBES"
	sha1     = "SHA1"
)

var (
	element = regexp.MustCompile(`^SPDXRef-[A-Za-z0-9.-]+$`)
	instant = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`)
	creator = regexp.MustCompile(`^(Person|Organization): .+|^Tool: [^ ]+-[^ ]+$`)
	purl    = regexp.MustCompile(`^pkg:[a-z][a-z0-9.+-]*/[^@?# ]+(@[^@?# ]+)?(\?[a-z0-9._-]+=[^&# ]+(&[a-z0-9._-]+=[^&# ]+)*)?(#[^ ]+)?$`)
)

// digits is how many hexadecimal digits a check sum has.
var digits = map[string]int{
	sha1: 40, "SHA224": 56, "SHA256": 64, "SHA384": 96, "SHA512": 128, "MD5": 32,
}

// relationships are all that there are (11.1).
var relationships = strings.Fields(`DESCRIBES DESCRIBED_BY CONTAINS CONTAINED_BY DEPENDS_ON DEPENDENCY_OF
	DEPENDENCY_MANIFEST_OF BUILD_DEPENDENCY_OF DEV_DEPENDENCY_OF OPTIONAL_DEPENDENCY_OF PROVIDED_DEPENDENCY_OF
	TEST_DEPENDENCY_OF RUNTIME_DEPENDENCY_OF EXAMPLE_OF GENERATES GENERATED_FROM ANCESTOR_OF DESCENDANT_OF VARIANT_OF
	DISTRIBUTION_ARTIFACT PATCH_FOR PATCH_APPLIED COPY_OF FILE_ADDED FILE_DELETED FILE_MODIFIED EXPANDED_FROM_ARCHIVE
	DYNAMIC_LINK STATIC_LINK DATA_FILE_OF TEST_CASE_OF BUILD_TOOL_OF DEV_TOOL_OF TEST_OF TEST_TOOL_OF DOCUMENTATION_OF
	OPTIONAL_COMPONENT_OF METAFILE_OF PACKAGE_OF AMENDS PREREQUISITE_FOR HAS_PREREQUISITE REQUIREMENT_DESCRIPTION_FOR
	SPECIFICATION_FOR OTHER`)

// Check returns what is wrong with a document, nil if nothing is.
func Check(text []byte) error {
	parsed, err := spdxjson.Read(bytes.NewReader(text))
	if err != nil {
		return err
	}
	var d doc
	if err := json.Unmarshal(text, &d); err != nil {
		return err
	}
	c := checker{doc: &d, ids: make(map[string]bool)}
	c.add(spdxlib.ValidateDocument(parsed))
	c.creation()
	c.id("the document", d.SPDXID)
	for _, p := range d.Packages {
		c.pkg(p)
	}
	for _, f := range d.Files {
		c.file(f)
	}
	c.relationships()
	return errors.Join(c.errs...)
}

type checker struct {
	*doc
	ids  map[string]bool
	errs []error
}

func (c *checker) add(err error) {
	if err != nil {
		c.errs = append(c.errs, err)
	}
}

// want adds a fault unless what has to be is.
func (c *checker) want(ok bool, clause, format string, args ...any) {
	if !ok {
		c.add(fmt.Errorf("%s: "+format, append([]any{clause}, args...)...))
	}
}

func (c *checker) creation() {
	c.want(c.SPDXVersion == "SPDX-2.3", "6.1", "version %q", c.SPDXVersion)
	c.want(c.DataLicense == "CC0-1.0", "6.2", "data licence %q", c.DataLicense)
	c.want(c.SPDXID == document, "6.3", "the document is %q", c.SPDXID)
	c.want(c.Name != "", "6.4", "the document has no name")
	u, err := url.Parse(c.DocumentNamespace)
	c.want(err == nil && u.IsAbs() && !strings.Contains(c.DocumentNamespace, "#"), "6.5", "namespace %q", c.DocumentNamespace)
	c.want(len(c.CreationInfo.Creators) > 0, "6.8", "nobody has made it")
	for _, who := range c.CreationInfo.Creators {
		c.want(creator.MatchString(who), "6.8", "creator %q", who)
	}
	c.want(instant.MatchString(c.CreationInfo.Created), "6.9", "made at %q", c.CreationInfo.Created)
}

// id takes note of an element.
func (c *checker) id(what, id string) {
	c.want(element.MatchString(id), "7.2", "%s has the id %q", what, id)
	c.want(!c.ids[id], "7.2", "two elements have the id %s", id)
	c.ids[id] = true
}

func (c *checker) pkg(p pkg) {
	what := "package " + p.Name
	c.want(p.Name != "", "7.1", "a package has no name")
	c.id(what, p.SPDXID)
	u, err := url.Parse(p.DownloadLocation)
	c.want(p.DownloadLocation == none || p.DownloadLocation == unknown || err == nil && u.IsAbs(), "7.7", "%s is at %q", what, p.DownloadLocation)
	if p.FilesAnalyzed == nil || *p.FilesAnalyzed {
		c.want(p.PackageVerificationCode != nil, "7.9", "%s: its files are said to be known, and it has no verification code", what)
	} else {
		c.want(p.PackageVerificationCode == nil && len(p.LicenseInfoFromFiles) == 0, "7.8", "%s: its files are said not to be known", what)
	}
	c.checksums("7.10", what, p.Checksums)
	c.licence("7.13", what, p.LicenseConcluded)
	c.licence("7.15", what, p.LicenseDeclared)
	for _, r := range p.ExternalRefs {
		c.want(slices.Contains([]string{"SECURITY", "PACKAGE-MANAGER", "PERSISTENT-ID", "OTHER"}, r.ReferenceCategory), "7.21", "%s has a reference of category %q", what, r.ReferenceCategory)
		c.want(r.ReferenceType != "purl" || purl.MatchString(r.ReferenceLocator), "F.3.5", "%s has the package URL %q", what, r.ReferenceLocator)
	}
}

func (c *checker) file(f file) {
	what := "file " + f.FileName
	c.want(f.FileName != "" && !strings.HasPrefix(f.FileName, "/"), "8.1", "%s: its name is not relative to the root of its package", what)
	c.id(what, f.SPDXID)
	c.checksums("8.4", what, f.Checksums)
	c.want(slices.ContainsFunc(f.Checksums, func(s checksum) bool { return s.Algorithm == sha1 }), "8.4", "%s has no SHA-1", what)
	c.licence("8.5", what, f.LicenseConcluded)
	for _, l := range f.LicenseInfoInFiles {
		c.licence("8.6", what, l)
	}
}

func (c *checker) checksums(clause, what string, all []checksum) {
	for _, s := range all {
		n, known := digits[s.Algorithm]
		hex := regexp.MustCompile(`^[0-9a-f]*$`).MatchString(s.ChecksumValue)
		c.want(known && hex && len(s.ChecksumValue) == n, clause, "%s has the check sum %s %q", what, s.Algorithm, s.ChecksumValue)
	}
}

// licence wants an expression of known licences, or of those that the document has (annex
// D), or that nothing is said.
func (c *checker) licence(clause, what, expression string) {
	switch expression {
	case "", none, unknown: // it may be left out
		return
	}
	ok, _ := spdxexp.ValidateLicenses([]string{expression})
	c.want(ok, clause, "%s has the licence %q", what, expression)
	if !ok {
		return
	}
	licences, err := spdxexp.ExtractLicenses(expression)
	c.add(err)
	for _, l := range licences {
		known := slices.ContainsFunc(c.HasExtractedLicensingInfos, func(i struct{ LicenseID string }) bool { return i.LicenseID == l })
		c.want(known || !strings.HasPrefix(l, "LicenseRef-"), "10.1", "%s has the licence %s, whose text the document does not have", what, l)
	}
}

// relationships wants elements at both ends, and a way from the document to every element.
func (c *checker) relationships() {
	reached := map[string]bool{document: true}
	for _, r := range c.Relationships {
		c.want(c.ids[r.SPDXElementID], "11.1", "a relationship is of %q, which is no element", r.SPDXElementID)
		nothing := r.RelatedSPDXElement == none || r.RelatedSPDXElement == unknown
		c.want(c.ids[r.RelatedSPDXElement] || nothing, "11.1", "a relationship is to %q, which is no element", r.RelatedSPDXElement)
		c.want(slices.Contains(relationships, r.RelationshipType), "11.1", "a relationship is %q", r.RelationshipType)
	}
	c.want(slices.ContainsFunc(c.Relationships, func(r relationship) bool {
		return r.SPDXElementID == document && r.RelationshipType == describe
	}), "11.1", "the document describes nothing")
	for grown := true; grown; {
		grown = false
		for _, r := range c.Relationships {
			if reached[r.SPDXElementID] && !reached[r.RelatedSPDXElement] {
				reached[r.RelatedSPDXElement], grown = true, true
			}
		}
	}
	for id := range c.ids {
		c.want(reached[id], "11.1", "nothing leads from the document to %s", id)
	}
}
