// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package config

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
)

// authorizedKeys checks the lines of an AuthorizedKeysFile (sshd(8)).
func (k *checker) authorizedKeys(field string, lines []string) {
	for i, line := range lines {
		if !isAuthorizedKey(line) {
			k.fail(fmt.Sprintf("%s[%d]", field, i), line, "want a public key in one line, such as ssh-ed25519 AAAA… name")
		}
	}
}

// isAuthorizedKey reports whether a line has the name of a kind of key and, after it,
// a key of that kind. Options may come before, a comment after.
func isAuthorizedKey(line string) bool {
	if strings.ContainsAny(line, "\n\r\x00") {
		return false
	}
	words := strings.Fields(line)
	for i := range len(words) - 1 {
		blob, err := base64.StdEncoding.DecodeString(words[i+1])
		// A key begins with the name of its kind, as a string with its length
		// (RFC 4253, 6.6).
		if name := words[i]; err == nil && len(blob) > 4+len(name) &&
			binary.BigEndian.Uint32(blob) == uint32(len(name)) && string(blob[4:4+len(name)]) == name {
			return true
		}
	}
	return false
}
