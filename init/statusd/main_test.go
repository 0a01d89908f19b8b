// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestMain is statusd where the tests start themselves as that.
func TestMain(m *testing.M) {
	if os.Getenv("UMBRA_TEST_STATUSD") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// start runs statusd with a free port, and returns where it is served.
func start(t *testing.T, args ...string) (cmd *exec.Cmd, url string) {
	t.Helper()
	cmd = exec.Command(os.Args[0], append([]string{"-listen", "127.0.0.1:0"}, args...)...)
	cmd.Env = append(os.Environ(), "UMBRA_TEST_STATUSD=1")
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	t.Cleanup(func() {
		if !ended {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	said := bufio.NewScanner(out)
	var all strings.Builder
	for said.Scan() {
		fmt.Fprintln(&all, said.Text())
		if m := regexp.MustCompile(`served" at=(\S+)`).FindStringSubmatch(said.Text()); m != nil {
			return cmd, "http://" + m[1]
		}
	}
	ended = true
	t.Fatalf("it ended with %v, and said:\n%s", cmd.Wait(), all.String())
	return nil, ""
}

// modules are those that the program is made of, beside the standard library and umbra:
// all that strangers' words may get to.
var modules = []string{
	"github.com/beorn7/perks",
	"github.com/cespare/xxhash/v2",
	"github.com/munnerz/goautoneg",
	"github.com/prometheus/client_golang",
	"github.com/prometheus/client_model",
	"github.com/prometheus/common",
	"github.com/prometheus/procfs",
	"github.com/umbra-vm/umbra",
	"go.yaml.in/yaml/v2",
	"golang.org/x/net",
	"golang.org/x/sys",
	"google.golang.org/protobuf",
}

func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	got := slices.Compact(slices.Sorted(slices.Values(strings.Fields(string(out)))))
	if diff := cmp.Diff(modules, got); diff != "" {
		t.Errorf("modules (-want +got):\n%s", diff)
	}
}

func TestServesAndEnds(t *testing.T) {
	cmd, url := start(t, "-interface", "lo", "-agent", filepath.Join(t.TempDir(), "none.sock"))
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r.Body)
	r.Body.Close()
	if err != nil || r.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(text), "does not answer") {
		t.Errorf("without an agent: %s, %v\n%s", r.Status, err, text)
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("asked to end, it ended with %v", err)
	}
}

func TestListensOnNothingElse(t *testing.T) {
	for _, o := range []options{
		{listen: "127.0.0.1:0", iface: "nosuch0"},
		{listen: "192.0.2.1:9100"}, // of nobody (RFC 5737)
	} {
		if err := run(context.Background(), o, nil); err == nil {
			t.Errorf("served with %+v", o)
		}
	}
}
