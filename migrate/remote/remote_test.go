// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package remote

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// client is called as ssh is, and runs the line here. It knows one host.
const client = `#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
[ "$1" = known ] || { echo "cannot resolve $1" >&2; exit 255; }
exec sh -c "$2"
`

func TestRun(t *testing.T) {
	ssh := filepath.Join(t.TempDir(), "ssh")
	if err := os.WriteFile(ssh, []byte(client), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		rule, host, line, in, out string
		want                      error
		says                      string
	}{
		{"input and output are the line's", "known", "cat; echo more", "a", "amore\n", nil, ""},
		{"a status is the line's", "known", "echo why >&2; exit 3", "", "", ErrCommand, "known: command failed, status 3: why"},
		{"a host that is not there", "other", "echo", "", "", ErrLost, "cannot resolve other"},
		{"without a name it is this machine", "", "echo here", "", "here\n", nil, ""},
		{"here 255 is a status as any", "", "exit 255", "", "", ErrCommand, "this host"},
		{"a name is no option", "-oProxyCommand=x", "echo", "", "", ErrName, ""},
		{"words are the line's own", "known", `printf '%s|' 'a  b' "$HOME/"'$x'`, "", "a  b|" + os.Getenv("HOME") + "/$x|", nil, ""},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			var out bytes.Buffer
			err := Host{Name: tt.host, SSH: ssh + " -q"}.Run(t.Context(), tt.line, strings.NewReader(tt.in), &out)
			if !errors.Is(err, tt.want) || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want %v with %q", err, tt.want, tt.says)
			}
			if out.String() != tt.out {
				t.Errorf("output %q, want %q", out.String(), tt.out)
			}
		})
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	out := writer(func() { cancel(cause) })
	if err := (Host{}).Run(ctx, "echo; exec sleep 600", nil, out); !errors.Is(err, cause) {
		t.Errorf("error %v, want %v", err, cause)
	}
}

// writer calls itself when something is written.
type writer func()

func (w writer) Write(b []byte) (int, error) {
	w()
	return len(b), nil
}
