// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/umbra-vm/umbra/image/kernel/kerneltest"
	"github.com/umbra-vm/umbra/image/machine"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"umbra": main,
		"agent": agent,
	})
}

// TestScripts runs the verbs as a user does. Each script finds a kernel package
// linux.deb and a program app in its directory.
func TestScripts(t *testing.T) {
	source, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	deb := kerneltest.Deb(t, "linux-image-test", kerneltest.New())
	program := kerneltest.Module("", "a static ELF file, as far as anybody looks")
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			taken, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			env.Defer(func() { taken.Close() })
			_, port, err := net.SplitHostPort(taken.Addr().String())
			if err != nil {
				return err
			}
			env.Setenv("PORT", port)
			env.Setenv("SOURCE", source)
			env.Setenv("INIT", "./image/testdata/init")
			// The Go command needs its caches, and a home to find them.
			env.Setenv("HOME", home)
			env.Setenv("XDG_CACHE_HOME", filepath.Join(env.WorkDir, "cache"))
			env.Setenv("GOCACHE", goEnv("GOCACHE", filepath.Join(home, ".cache", "go-build")))
			if err := os.WriteFile(filepath.Join(env.WorkDir, "linux.deb"), deb, 0o644); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(env.WorkDir, "app"), program, 0o755)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": code,
		},
	})
}

func goEnv(key, otherwise string) string {
	if v := os.Getenv(key); v != "" {
		return v
	}
	return otherwise
}

// code runs a program and checks its exit code: code 2 umbra build.
func code(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: code N program arg...")
	}
	want := args[0]
	// sh tells the code, which exec does not.
	err := ts.Exec("sh", append([]string{"-c", `"$@"; got=$?; [ $got = ` + want + ` ] || { echo "exit code $got, want ` + want + `" >&2; exit 1; }`, "sh"}, args[1:]...)...)
	if err != nil {
		ts.Fatalf("%v", err)
	}
}

func TestBothSidesNameTheControlPortAlike(t *testing.T) {
	if machine.CtlPort != ctl.PortName {
		t.Errorf("the machine's port is %s, the agent's %s", machine.CtlPort, ctl.PortName)
	}
}
