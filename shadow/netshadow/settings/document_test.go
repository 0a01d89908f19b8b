// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

//go:build !guest

package settings

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the document instead of comparing it")

const document = "../../../docs/operations.md"

// TestDocument compares the document with the table that it is made of.
func TestDocument(t *testing.T) {
	want := render()
	if *update {
		if err := os.WriteFile(document, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s is not what the table says; make generate writes it (-table +document)\n%s", document, diff)
	}
}

func render() []byte {
	var b bytes.Buffer
	fmt.Fprint(&b, `<!-- Made by make generate of shadow/netshadow/settings/table.go. -->

# What is recorded of a network device, and replayed

In the order of a replay. An operation is in the log only if somebody changed the setting; a driver's own default never is.
Every operation is deferred where the kernel or the driver refuses it: it stays in the log, is reported with the reason,
and is tried again on the next device. What is set before the interface is opened is tried again after it.

| Operation | Of the | Seen by | Read as | Replayed | Deferred, beside a refusal |
|---|---|---|---|---|---|
`)
	for _, o := range Operations() {
		row := []string{"`" + o.Key + "`", o.Scope.String(), o.Seen.String(), o.Read, o.Phase.String(), o.Deferred}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
	}
	fmt.Fprint(&b, `
## What the proxy keeps

No operation is needed for these: they are the proxy's, which stays.

| Setting | The kernel's way to the new device |
|---|---|
`)
	for _, k := range KeptByProxy() {
		fmt.Fprintf(&b, "| %s | %s |\n", k.What, k.How)
	}
	return b.Bytes()
}
