// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package confine

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// The test binary is the helper under its name, as PID 1's is.
func TestMain(m *testing.M) {
	if os.Args[0] == Helper {
		os.Exit(Main(os.Args))
	}
	if len(os.Args) > 1 && os.Args[1] == keeper {
		os.Exit(keep(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// keeper is an argument that makes the test binary a program which keeps the capabilities
// behind it.
const keeper = "keep-capabilities"

// keep says what every thread of the program has, and what a program that it starts has.
func keep(capabilities []string) int {
	if err := Keep(capabilities...); err != nil {
		fmt.Println(err)
		return 1
	}
	out, err := exec.Command("/bin/sh", "-c", "grep -hE '^(Cap|NoNew)' /proc/$PPID/task/*/status /proc/self/status").CombinedOutput()
	fmt.Print(string(out), err)
	return 0
}

func TestIntegrationKeep(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has something to give up")
	}
	out, err := exec.Command(os.Args[0], keeper, "CAP_NET_RAW", "CAP_SYS_MODULE").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	seen := make(map[string]int)
	for _, line := range regexp.MustCompile(`(?m)^(CapPrm|CapEff|CapBnd|NoNewPrivs):\t(\S+)$`).FindAllStringSubmatch(string(out), -1) {
		want := "0000000000012000"
		if line[1] == "NoNewPrivs" {
			want = "1"
		}
		if line[2] != want {
			t.Errorf("%s is %s, want %s", line[1], line[2], want)
		}
		seen[line[1]]++
	}
	if len(seen) != 4 || seen["CapBnd"] < 3 { // two threads at least, and a child
		t.Errorf("seen of threads and child: %v\n%s", seen, out)
	}
	if out, err := exec.Command(os.Args[0], keeper, "CAP_NONE").CombinedOutput(); err == nil || !strings.Contains(string(out), "CAP_NONE") {
		t.Errorf("error %v of an unknown capability: %s", err, out)
	}
}

func TestVectors(t *testing.T) {
	other := &User{UID: 1000}
	for _, tt := range []struct {
		name           string
		s              Spec
		bound, ambient string // of CAP_CHOWN and CAP_KILL: what is in
	}{
		{"root keeps what is listed within its bounds", Spec{Capabilities: []string{"CAP_CHOWN"}}, "chown", ""},
		{"an empty list leaves nothing", Spec{Capabilities: []string{}}, "", ""},
		{"another user has what is listed", Spec{User: other, Capabilities: []string{"CAP_CHOWN", "CAP_KILL"}}, "chown kill", "chown kill"},
		{"another user without a list has nothing", Spec{User: other}, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			iab, err := tt.s.vectors()
			if err != nil {
				t.Fatal(err)
			}
			has := func(v cap.Vector, raised bool) string {
				var in []string
				for name, c := range map[string]cap.Value{"chown": cap.CHOWN, "kill": cap.KILL} {
					if is, err := iab.GetVector(v, c); err != nil || is == raised {
						in = append(in, name)
					}
				}
				if len(in) == 2 {
					return "chown kill"
				}
				return strings.Join(in, "")
			}
			// The library's vector has what is not within the bounds.
			if got := has(cap.Bound, false); got != tt.bound {
				t.Errorf("bounds %q, want %q", got, tt.bound)
			}
			if got := has(cap.Amb, true); got != tt.ambient {
				t.Errorf("ambient %q, want %q", got, tt.ambient)
			}
		})
	}
	if _, err := (Spec{Capabilities: []string{"CAP_NONE"}}).vectors(); err == nil || !strings.Contains(err.Error(), "CAP_NONE") {
		t.Errorf("error %v of an unknown capability", err)
	}
}

func TestWritableDirectoriesComeAfterThoseAboveThem(t *testing.T) {
	s := Spec{Name: "app", Writable: []string{"/var", "/run/app", "/data"}}
	want := []string{"/data", "/dev/shm", "/run", "/run/app", "/tmp", "/var", "/var/lib/app", "/var/tmp"}
	if diff := cmp.Diff(want, s.writable()); diff != "" {
		t.Errorf("directories (-want +got):\n%s", diff)
	}
}

// helper runs the helper and returns what the program, a shell, said.
func helper(t *testing.T, s Spec, script string) (out string, code int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root has something to give up")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Args, cmd.Dir = s.Args("/bin/sh", []string{"sh", "-c", script}), "/"
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text)), cmd.ProcessState.ExitCode()
}

// clean removes the directories that the helper makes for a program.
func clean(t *testing.T, s Spec) Spec {
	t.Cleanup(func() {
		for _, dir := range s.dirs() {
			os.RemoveAll(dir)
		}
	})
	return s
}

func TestIntegrationIdentity(t *testing.T) {
	const script = "id -u; id -g; id -G; grep -E '^(Cap|NoNew)' /proc/self/status | tr '\\n\\t' '  '"
	s := clean(t, Spec{
		Name: "umbra-test-identity", User: &User{UID: 4001, GID: 4002, Groups: []int{4003, 4004}},
		Capabilities: []string{"CAP_NET_BIND_SERVICE"}, NoNewPrivileges: true,
	})
	out, code := helper(t, s, script)
	want := "4001\n4002\n4002 4003 4004\nCapInh: 0000000000000400 CapPrm: 0000000000000400 CapEff: 0000000000000400 " +
		"CapBnd: 0000000000000400 CapAmb: 0000000000000400 NoNewPrivs: 1"
	if diff := cmp.Diff(want, out); diff != "" || code != 0 {
		t.Errorf("code %d (-want +got):\n%s", code, diff)
	}
}

func TestIntegrationReadOnlyRoot(t *testing.T) {
	open, err := os.MkdirTemp("/var", "umbra-test") // not below what is writable anyway
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { os.RemoveAll(open) })
	s := clean(t, Spec{Name: "umbra-test-root", ReadOnlyRoot: true, Writable: []string{open}})
	out, code := helper(t, s, "echo 2>/dev/null >/etc/umbra-test && echo etc; "+
		"for d in "+open+" /run /tmp /var/lib/umbra-test-root; do echo >$d/umbra-test && rm $d/umbra-test && echo ok; done; echo x >/dev/null && echo null")
	if out != "ok\nok\nok\nok\nnull" || code != 0 {
		t.Errorf("code %d, wrote to %q", code, out)
	}
}

func TestIntegrationWhatCannotBeDoneIsNotLeftOut(t *testing.T) {
	s := clean(t, Spec{Name: "umbra-test-fail", ReadOnlyRoot: true, Writable: []string{"/umbra/no/such/directory"}})
	out, code := helper(t, s, "echo started")
	if code != ExitFailed || out != "umbra: not started: read-only root: /umbra/no/such/directory: no such file or directory" {
		t.Errorf("code %d, %q", code, out)
	}
}
