// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed/vm"
	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// dataImage keeps what it writes on a disk.
var dataImage = sync.OnceValues(func() (*image.Bundle, error) {
	dir := filepath.Join(workDir, "data")
	subject, err := compile(filepath.Join(dir, "subject"), "build", "./internal/subject")
	if err != nil {
		return nil, err
	}
	return rig.Build(context.Background(), rig.GuestOptions{
		Dir: dir, Drivers: []string{"e1000", "8139cp"}, NoWitness: true, Options: image.Options{Progress: progress},
		Extra: fmt.Sprintf("[data]\nserial = \"keep\"\n[[service]]\nname = \"app\"\nexec = [\"/bin/subject\", \"data\", \"/data/lines\"]\n"+
			"files = [%q]\nneeds = [\"data\"]\n", subject+":/bin/subject"),
	})
})

// TestData has a service write to its disk while the guest moves, while its host loses
// power, and until it is switched off, and counts what is there afterwards. Then the file
// system has an error.
func TestData(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 32<<20); err != nil {
		t.Fatal(err)
	}
	tool(t, "mkfs.ext4", "-q", disk)
	attach := extra("-blockdev", "driver=file,node-name=disk,filename="+disk, "-device", "virtio-blk-pci,drive=disk,serial=keep,addr=0x8")

	nics := []rig.NIC{e1000At2}
	g := boot(t, dataImage, nil, nics, attach)
	g.waitConsole("app: found 0 lines")
	g.waitConsole("app: kept 5 lines")
	g.wantData("mounted", "vda")
	before := g.kept()
	g.move(rtl8139At2)
	g.waitConsole(fmt.Sprintf("app: kept %d lines", before+20)) // on the other host
	g.wantData("mounted", "vda")
	g.Host.Kill()
	if err := g.Host.Wait(g.ctx); err != nil {
		t.Fatal(err)
	}
	kept := g.kept()

	g = boot(t, dataImage, nil, nics, attach, again)
	g.waitConsole("data: vda is mounted on /data journal_replayed=true")
	found := number(t, g.waitConsole(`app: found \d+ lines`))
	if found < kept {
		t.Errorf("%d lines were on the disk when the host lost power, %d are", kept, found)
	}
	g.waitConsole(fmt.Sprintf("app: kept %d lines", found+5))
	if err := g.Host.QMP.Execute(g.ctx, "system_powerdown", nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := g.Host.Wait(g.ctx); err != nil {
		t.Fatal(err)
	}
	if out := tool(t, "e2fsck", "-f", "-n", disk); strings.Contains(out, "recovery") {
		t.Errorf("the file system was not unmounted:\n%s", out)
	}
	copied := filepath.Join(t.TempDir(), "lines")
	tool(t, "debugfs", "-R", "dump /lines "+copied, disk)
	text, err := os.ReadFile(copied)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(text))
	if n := g.kept(); len(lines) < n || lines[n-1] != strconv.Itoa(n) {
		t.Errorf("%d lines were written, the disk has %d", n, len(lines))
	}

	tool(t, "debugfs", "-w", "-R", "set_super_value state 2", disk)
	g = boot(t, dataImage, nil, nics, attach, again)
	g.waitConsole("data: services that need it wait: .* vda has errors and is mounted read-only")
	g.waitRole("passive", func(r ctl.RoleStatus) bool { return r.Mode == ctl.ModePassive && r.Device != "" })
	g.wantData("read-only", "vda")
	if g.rec.says("app: found") {
		t.Error("a service runs that needs to write")
	}
}

// wantData asks the agent for the state of the data.
func (g *guest) wantData(state, device string) {
	g.t.Helper()
	st, err := g.status()
	if err != nil || st.Data == nil {
		g.t.Fatalf("status of the data: %+v, %v", st.Data, err)
	}
	if d := *st.Data; d.State != state || d.Device != device || d.Size < 16<<20 || (d.Message != "") != (state != "mounted") {
		g.t.Errorf("the data is %+v, want %s, on %s", d, state, device)
	}
}

// kept is the number of the last line that the service has told of on this host.
func (g *guest) kept() int {
	g.t.Helper()
	line, ok := g.lastLine("app: kept ")
	if !ok {
		g.t.Fatal("no line was kept")
	}
	return number(g.t, line.Text)
}

// consoleLines are more than a host's console has.
const consoleLines = 1 << 16

// lastLine returns the last line of the present host's console that holds text.
func (g *guest) lastLine(text string) (last vm.Line, ok bool) {
	for _, l := range g.Host.Console.Tail(consoleLines) {
		if strings.Contains(l.Text, text) {
			last, ok = l, true
		}
	}
	return last, ok
}

var digits = regexp.MustCompile(`(\d+) lines`)

func number(t testing.TB, line string) int {
	t.Helper()
	m := digits.FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("no number of lines in %q", line)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// tool runs one of e2fsprogs' and returns what it says.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}
