// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package sbomtest

import (
	"strings"
	"testing"
)

// small is a document without a fault.
const small = `{
 "SPDXID": "SPDXRef-DOCUMENT", "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "name": "app",
 "documentNamespace": "https://example.org/app-1",
 "creationInfo": {"created": "2023-11-14T22:13:20Z", "creators": ["Tool: umbra-1"]},
 "packages": [
  {"SPDXID": "SPDXRef-app", "name": "app", "downloadLocation": "NOASSERTION", "filesAnalyzed": false},
  {"SPDXID": "SPDXRef-lib", "name": "lib", "downloadLocation": "https://example.org/lib", "filesAnalyzed": false,
   "licenseConcluded": "NOASSERTION", "licenseDeclared": "(MIT OR Apache-2.0) AND GPL-2.0-only WITH Linux-syscall-note",
   "checksums": [{"algorithm": "SHA256", "checksumValue": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}],
   "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": "pkg:deb/debian/lib@1%3A1?arch=amd64"}]}
 ],
 "files": [{"SPDXID": "SPDXRef-file", "fileName": "./bin/app", "licenseConcluded": "NOASSERTION",
  "checksums": [{"algorithm": "SHA1", "checksumValue": "a9993e364706816aba3e25717850c26c9cd0d89d"}]}],
 "relationships": [
  {"spdxElementId": "SPDXRef-DOCUMENT", "relatedSpdxElement": "SPDXRef-app", "relationshipType": "DESCRIBES"},
  {"spdxElementId": "SPDXRef-app", "relatedSpdxElement": "SPDXRef-lib", "relationshipType": "CONTAINS"},
  {"spdxElementId": "SPDXRef-app", "relatedSpdxElement": "SPDXRef-file", "relationshipType": "CONTAINS"}
 ]
}`

func TestCheck(t *testing.T) {
	if err := Check([]byte(small)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ rule, old, new, want string }{
		{"a version of SPDX is another", `"SPDX-2.3"`, `"SPDX-2.2"`, "6.1"},
		{"the document's own licence is CC0", `"CC0-1.0"`, `"MIT"`, "6.2"},
		{"the document has a name", `"name": "app",`, `"name": "",`, "6.4"},
		{"a namespace is an URI", `"https://example.org/app-1"`, `"app-1"`, "6.5"},
		{"without a fragment", `app-1"`, `app#1"`, "6.5"},
		{"somebody has made it", `["Tool: umbra-1"]`, `[]`, "6.8"},
		{"a tool has a version", `umbra-1`, `umbra`, "6.8"},
		{"times are UTC", `20Z`, `20+01:00`, "6.9"},
		{"a package has a name", `"name": "lib"`, `"name": ""`, "7.1"},
		{"ids have few characters", `"SPDXRef-lib"`, `"SPDXRef-lib_1"`, "7.2"},
		{"ids are unique", `"SPDXID": "SPDXRef-file"`, `"SPDXID": "SPDXRef-app"`, "7.2"},
		{"a package is somewhere", `"https://example.org/lib"`, `""`, "7.7"},
		{"files that are known have a verification code", `"NOASSERTION", "filesAnalyzed": false`, `"NOASSERTION"`, "7.9"},
		{"a check sum has its length", `015ad"`, `"`, "7.10"},
		{"of what there is", `"SHA256"`, `"CRC32"`, "7.10"},
		{"a licence is one that SPDX knows", `MIT OR`, `MITT OR`, "7.15"},
		{"in an expression that can be read", `(MIT OR Apache-2.0)`, `(MIT OR`, "7.15"},
		{"or one whose text is there", `(MIT OR`, `(LicenseRef-mine OR`, "10.1"},
		{"references have a category", `"PACKAGE-MANAGER"`, `"PACKAGES"`, "7.21"},
		{"a package URL is one", `pkg:deb/debian/lib@1%3A1?arch=amd64`, `debian/lib`, "F.3.5"},
		{"a file's name is relative", `./bin/app`, `/bin/app`, "8.1"},
		{"a file has a SHA-1", `"SHA1", "checksumValue": "a9993e364706816aba3e25717850c26c9cd0d89d"`, `"MD5", "checksumValue": "900150983cd24fb0d6963f7d28e17f72"`, "8.4"},
		{"relationships are of elements", `"spdxElementId": "SPDXRef-app", "relatedSpdxElement": "SPDXRef-lib"`, `"spdxElementId": "SPDXRef-other", "relatedSpdxElement": "SPDXRef-lib"`, "11.1"},
		{"and to elements", `"relatedSpdxElement": "SPDXRef-file"`, `"relatedSpdxElement": "SPDXRef-none"`, "11.1"},
		{"of kinds that there are", `"CONTAINS"`, `"HAS"`, "11.1"},
		{"a document describes something", `"DESCRIBES"`, `"CONTAINS"`, "11.1"},
		{"every element is led to", `"relatedSpdxElement": "SPDXRef-file"`, `"relatedSpdxElement": "NONE"`, "nothing leads from the document to SPDXRef-file"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			text := strings.Replace(small, tt.old, tt.new, 1)
			if text == small {
				t.Fatal("nothing was changed")
			}
			if err := Check([]byte(text)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one that says %s", err, tt.want)
			}
		})
	}
	if Check([]byte("no JSON")) == nil {
		t.Error("what is no document is taken")
	}
}
