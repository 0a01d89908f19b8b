// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xen

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/umbra-vm/umbra/migrate/remote"
)

// program is called as xl is, opens its file by the path as xl does, and says something
// where nothing belongs.
const program = `#!/bin/sh
echo "$1 of $3"
case $3 in broken) echo why >&2; exit 7;; esac
case $1 in
save) i=0; while [ $i -lt 20000 ]; do echo "line $i of the domain" || exit 8; i=$((i+1)); done > "$4" || exit 9;;
restore) cat "$4" > "$3.restored";;
esac
`

// The lines are the shell's: what they carry is whole, and nothing else is among it, and
// the status is xl's.
func TestLines(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "xl"), []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	var here remote.Host
	var saved bytes.Buffer
	if err := here.Run(t.Context(), fmt.Sprintf(saveLine, quote("it's one")), nil, &saved); err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	for i := range 20000 {
		fmt.Fprintf(&want, "line %d of the domain\n", i)
	}
	if !bytes.Equal(saved.Bytes(), want.Bytes()) {
		t.Errorf("%d bytes were saved, want %d", saved.Len(), want.Len())
	}
	file := filepath.Join(dir, "a config")
	if err := here.Run(t.Context(), fmt.Sprintf(restoreLine, quote(file)), &saved, io.Discard); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(file + ".restored"); err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%d bytes were restored, want %d: %v", len(got), want.Len(), err)
	}
	for _, line := range []string{saveLine, restoreLine} {
		err := here.Run(t.Context(), fmt.Sprintf(line, "broken"), bytes.NewReader(want.Bytes()), io.Discard)
		if !errors.Is(err, remote.ErrCommand) || !bytes.Contains([]byte(err.Error()), []byte("status 7: ")) {
			t.Errorf("%s: %v", line, err)
		}
	}
	// Who is cut off sees an error, and lives to put things right.
	r, w := io.Pipe()
	r.CloseWithError(errCut)
	if err := here.Run(t.Context(), fmt.Sprintf(saveLine, "guest0"), nil, w); err == nil {
		t.Error("the stream was cut, and nobody noticed")
	}
}
