// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package outputs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/go-cmp/cmp"

	"github.com/umbra-vm/umbra/ci/testbed/vm"
	"github.com/umbra-vm/umbra/ci/testbed/vmtest"
	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/image/machine"
	"github.com/umbra-vm/umbra/migrate"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// fleet is the host that updaters ask what to do.
type fleet struct {
	*httptest.Server

	mu     sync.Mutex
	order  func(slot string, try int) string // of a boot of a slot, the try-th of it
	image  []byte
	cut    bool           // the image stops in the middle, and stall is closed
	seen   map[string]int // boot: the number of its slot's boots with it
	starts int            // of all, of which the guest keeps count on its disk
	lost   []string       // when it did not
	boots  []string       // slots in the order of boots
	booted chan struct{}  // closed, and made anew, with each boot
	stall  chan struct{}
}

func newFleet(t *testing.T) *fleet {
	f := &fleet{seen: make(map[string]int), booted: make(chan struct{}), stall: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("/order", f.serveOrder)
	mux.HandleFunc("/image", f.serveImage)
	f.Server = httptest.NewServer(mux)
	t.Cleanup(f.CloseClientConnections) // those that wait in serveImage
	return f
}

// url is where a guest on QEMU's own network finds it.
func (f *fleet) url(t *testing.T) string {
	_, port, err := net.SplitHostPort(f.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return "http://10.0.2.2:" + port
}

func (f *fleet) serveOrder(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	slot, boot := r.FormValue("slot"), r.FormValue("boot")
	starts, err := strconv.Atoi(r.FormValue("starts"))
	if _, known := f.seen[boot]; !known {
		if starts <= f.starts || err != nil {
			f.lost = append(f.lost, fmt.Sprintf("%s: %q starts after %d", slot, r.FormValue("starts"), f.starts))
		}
		f.boots = append(f.boots, slot)
		try := 0
		for _, s := range f.boots {
			if s == slot {
				try++
			}
		}
		f.seen[boot] = try
		close(f.booted)
		f.booted = make(chan struct{})
	}
	f.starts = starts
	if f.order != nil {
		io.WriteString(w, f.order(slot, f.seen[boot]))
	}
}

func (f *fleet) serveImage(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	image, cut := f.image, f.cut
	f.cut = false
	f.mu.Unlock()
	if !cut {
		w.Write(image)
		return
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(image)))
	w.Write(image[:len(image)/2])
	close(f.stall)
	<-r.Context().Done()
}

// offer has a version that runs write another one, by the order that it returns.
func (f *fleet) offer(t *testing.T, b *image.Bundle, to string, cut bool) (order string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(b.Dir, image.UKI.File(b.Name)))
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.image, f.cut = content, cut
	f.mu.Unlock()
	order = fmt.Sprintf("update %x", sha256.Sum256(content))
	f.orders(func(slot string, _ int) string {
		if slot != to {
			return "wait"
		}
		return order
	})
	return order
}

func (f *fleet) orders(order func(slot string, try int) string) {
	f.mu.Lock()
	f.order = order
	f.mu.Unlock()
}

// waitBoots waits for so many boots of all, whose updater has asked.
func (f *fleet) waitBoots(ctx context.Context, t *testing.T, n int) {
	t.Helper()
	for {
		f.mu.Lock()
		have, next := len(f.boots), f.booted
		f.mu.Unlock()
		if have >= n {
			return
		}
		select {
		case <-next:
		case <-ctx.Done():
			t.Fatalf("%d boots of %d: %v", have, n, context.Cause(ctx))
		}
	}
}

// buildVersion builds a version of the appliance, which asks the fleet, with these further
// lines in its section [image].
func buildVersion(t *testing.T, f *fleet, version, more string, lines ...string) *image.Bundle {
	t.Helper()
	here, err := filepath.Abs("internal/updater")
	if err != nil {
		t.Fatal(err)
	}
	lines = append([]string{`outputs = ["uki", "disk"]`, "data_mb = 16"}, lines...)
	return build(t, strings.Join(lines, "\n"), fmt.Sprintf("[[service]]\nname = \"updater\"\ngo = %q\nexec = [\"/bin/updater\", %q, \"/data/starts\"]\n"+
		"needs = [\"net0\", \"data\"]\n[data]\npartition = \"my data\"\n[update]\nversion = %q\n%s\n", here, f.url(t), version, more))
}

// appliance is a host's machine with the disk; incoming is where it waits for a migration,
// or empty.
func appliance(t *testing.T, host string, b *image.Bundle, disk, nic, incoming string) machine.Machine {
	m := from(t, b, image.Disk, firmware)
	m.Name, m.Disk, m.Keep, m.Incoming = host, disk, true, incoming
	m.NICs = []machine.NIC{{ID: machine.Direct + "net0", Model: nic, Address: "2", Netdev: "user"}}
	return m
}

// wantUpdate waits until the agent says so of the versions on the disk.
func wantUpdate(ctx context.Context, t *testing.T, v *vm.VM, want ctl.Update) {
	t.Helper()
	var got ctl.Update
	for {
		u, err := versions(ctx, v)
		if err == nil {
			if got = u; got == want {
				return
			}
		}
		select {
		case <-time.After(time.Second):
		case <-v.Done():
			t.Fatalf("the machine ended; the versions were %+v, want %+v", got, want)
		case <-ctx.Done():
			t.Fatalf("versions %+v (%v), want %+v", got, err, want)
		}
	}
}

func versions(ctx context.Context, v *vm.VM) (ctl.Update, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := ctl.Dial(ctx, v.Machine.Ctl, nil)
	if err != nil {
		return ctl.Update{}, err
	}
	defer c.Close()
	var st ctl.Status
	if err := c.Call(ctx, ctl.CmdStatus, nil, &st); err != nil || st.Update == nil {
		return ctl.Update{}, fmt.Errorf("no word of versions: %w", err)
	}
	return *st.Update, nil
}

// TestUpdate updates an appliance to a version that proves itself, while it moves to another
// host; then to one that does not, in two ways; and ends a host in the middle of it.
func TestUpdate(t *testing.T) {
	needsFlag(t)
	ctx := vmtest.Context(t)
	f := newFleet(t)
	// Long enough for a move to come in between.
	first, good := buildVersion(t, f, "1.9", ""), buildVersion(t, f, "1.10", "settle_s = 30")
	bad := buildVersion(t, f, "2", "settle_s = 5\ntimeout_s = 90")
	disk := diskOf(t, first)

	a := vmtest.Start(ctx, t, appliance(t, "A", first, disk, "e1000", ""))
	wantUpdate(ctx, t, a, ctl.Update{State: "confirmed", Version: "1.9"})
	f.offer(t, good, "app-1.9", false)
	f.waitBoots(ctx, t, 2)
	wantUpdate(ctx, t, a, ctl.Update{State: "on trial", Version: "1.10", TriesLeft: 2})
	b := moveOnTrial(ctx, t, a, good, disk)
	wantUpdate(ctx, t, b, ctl.Update{State: "confirmed", Version: "1.10"})

	f.offer(t, bad, "app-1.10", true)
	f.endWhileWriting(ctx, t, b, disk)
	c := vmtest.Start(ctx, t, appliance(t, "C", good, disk, "e1000", ""))
	wantUpdate(ctx, t, c, ctl.Update{State: "confirmed", Version: "1.10"})

	update := f.offer(t, bad, "app-1.10", false)
	f.orders(func(slot string, try int) string {
		switch {
		case slot == "app-1.10" && try <= 2:
			return update
		case slot == "app-2" && try == 1:
			return "panic"
		case slot == "app-2":
			return "exit"
		}
		return "wait" // after all that
	})
	f.waitBoots(ctx, t, 7)
	wantUpdate(ctx, t, c, ctl.Update{State: "confirmed", Version: "1.10", Failed: "2", Message: "2 did not prove itself in 3 tries"})
	if _, err := c.WaitConsole(ctx, `app-2 has not proved itself in 1m30s: service updater is not as it should be`); err != nil {
		t.Error(err)
	}
	f.wantBoots(t, "app-1.9", "app-1.10", "app-1.10", "app-2", "app-2", "app-2", "app-1.10")
	if err := c.Quit(ctx); err != nil {
		t.Fatal(err)
	}
	// That a host ended is seen, and some may be marked as used by nothing.
	if said := checkSlots(t, disk); strings.Contains(said, "share clusters") || strings.Contains(said, "Contains a free cluster") {
		t.Errorf("fsck.fat says:\n%s", said)
	}
}

// diskOf is a copy of a version's disk, to write to.
func diskOf(t *testing.T, b *image.Bundle) string {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "disk.raw")
	content, err := os.ReadFile(filepath.Join(b.Dir, image.Disk.File(b.Name)))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(disk, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return disk
}

// moveOnTrial moves a guest whose version is on trial to a host with another NIC, and waits
// until it has proved itself there.
func moveOnTrial(ctx context.Context, t *testing.T, a *vm.VM, version *image.Bundle, disk string) *vm.VM {
	t.Helper()
	incoming := "unix:" + filepath.Join(vmtest.Dir(t), "incoming")
	b := vmtest.Start(ctx, t, appliance(t, "B", version, disk, "rtl8139", incoming))
	if _, err := migrate.Run(ctx, a.QMP, b.QMP, migrate.Options{Incoming: incoming, Direct: []string{machine.Direct + "net0"}}); err != nil {
		t.Fatal(err)
	}
	const proved = "has proved itself"
	for _, l := range a.Console.Tail(1 << 16) {
		if strings.Contains(l.Text, proved) {
			t.Errorf("before the move: %s", l.Text)
		}
	}
	a.Close()
	if _, err := b.WaitConsole(ctx, proved); err != nil {
		t.Fatal(err)
	}
	return b
}

// endWhileWriting ends a host when the guest has written a part of what is offered to it,
// which ends in the middle.
func (f *fleet) endWhileWriting(ctx context.Context, t *testing.T, host *vm.VM, disk string) {
	t.Helper()
	select {
	case <-f.stall:
	case <-ctx.Done():
		t.Fatal("no image is asked for")
	}
	waitForWriting(ctx, t, disk, "IMAGE_VERSION=2\n") // of which the disk has had none
	host.Close()
	f.orders(nil)
}

// wantBoots wants these slots to have been booted, and every start of a service to be
// counted on the partition for data.
func (f *fleet) wantBoots(t *testing.T, slots ...string) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if diff := cmp.Diff(slots, f.boots); diff != "" {
		t.Errorf("boots (-want +got):\n%s", diff)
	}
	for _, l := range f.lost {
		t.Errorf("what was on the partition for data is lost: %s", l)
	}
}

// checkSlots returns what fsck.fat says of the first partition, which it leaves alone.
func checkSlots(t *testing.T, disk string) string {
	t.Helper()
	b, err := file.OpenFromPath(disk, true)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	table, err := gpt.Read(b, 512, 512)
	if err != nil {
		t.Fatal(err)
	}
	esp := filepath.Join(t.TempDir(), "esp")
	cut(t, esp, disk, table.Partitions[0].GetStart(), table.Partitions[0].GetSize())
	said, err := exec.Command("fsck.fat", "-n", "-v", esp).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	t.Logf("fsck.fat: %s", said)
	return string(said)
}

// waitForWriting waits until a part of what is being written is on the disk.
func waitForWriting(ctx context.Context, t *testing.T, disk, part string) {
	t.Helper()
	for {
		have, err := os.ReadFile(disk)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(have, []byte(part)) {
			return
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal("nothing of the image is written")
		}
	}
}
