// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

//go:build browser

package vmtests

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/chromedp"

	"github.com/umbra-vm/umbra/ci/testbed/vmtest"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// The status page in a real browser: Debian's chromium, without a screen. It is a
// download of 100 MB and so not part of make test, but of make test-browser. What the
// browser sees is left in pictures, to be looked at.
var (
	pictures = flag.String("pictures", "../../out/browser", "directory of what the browser sees")
	keep     = flag.Bool("record", false, "keep what a guest says for TestRecordedPageInABrowser")
)

// recording is what a guest has said.
const recordingFile = "testdata/guest.json"

type recording struct {
	Status    ctl.Status
	Timelines []ctl.Timeline
	Log       []ctl.LogEntry
	Services  []ctl.Service
	Lines     []ctl.Line
}

// TestPageInABrowser looks at the page of a guest that has moved, over the guest's network.
func TestPageInABrowser(t *testing.T) {
	g := start(t, statusImage, e1000At2)
	g.traffic()
	g.move(rtl8139At2)
	g.recovered(1)
	var tl ctl.Timeline
	if err := g.Call(g.ctx, ctl.CmdReload, ctl.RoleArgs{Role: "net0"}, &tl); err != nil {
		t.Fatal(err)
	}
	if *keep {
		g.record()
	}
	g.page("/", "net0 #3: reload")
	look(t, "http://"+g.forward(g.pageAddr()), "guest", "8139cp")
	g.unharmed()
}

// TestRecordedPageInABrowser looks at the page that statusd makes of what a guest has said.
func TestRecordedPageInABrowser(t *testing.T) {
	text, err := os.ReadFile(recordingFile)
	if err != nil {
		t.Fatal(err)
	}
	var r recording
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	look(t, "http://"+serveRecorded(t, r), "recorded", "8139cp")
	worst(&r)
	look(t, "http://"+serveRecorded(t, r), "worst", "no device")
}

// worst makes of what a guest has said the longest and worst that it may say.
func worst(r *recording) {
	long := strings.Repeat("a-very-long-word-without-a-space-", 8)
	vacant := ctl.RoleStatus{Name: "net1", Class: "net", Mode: ctl.ModeActive, Held: 65536, Message: "no device fits its rules: " + long}
	r.Status.Roles = append(r.Status.Roles, vacant)
	r.Status.Update = &ctl.Update{State: ctl.UpdateOnTrial, Version: "1.4.3", TriesLeft: 2, Next: "1.4.4", Failed: "1.4.2", Message: long}
	r.Log = append(r.Log, ctl.LogEntry{Role: "net0", Key: "net.ring.rx", Value: long, Deferred: long})
	last := r.Timelines[len(r.Timelines)-1]
	last.Error, last.Deferred = long, []ctl.Deferred{{Op: long, Reason: long}}
	r.Timelines = append(r.Timelines, last)
	r.Services = append(r.Services, ctl.Service{Name: "app", State: "backing off", Starts: 1000000, LastExit: "killed by signal 9 " + long})
	r.Lines = append(r.Lines, ctl.Line{N: 1 << 40, From: "app", Text: "<script>document.title='run'</script>" + long + long})
}

// record keeps what the guest says.
func (g *guest) record() {
	g.t.Helper()
	var r recording
	var logs ctl.Logs
	for cmd, out := range map[string]any{
		ctl.CmdStatus: &r.Status, ctl.CmdTimeline: &r.Timelines, ctl.CmdLog: &r.Log, ctl.CmdServices: &r.Services, ctl.CmdLogs: &logs,
	} {
		if err := g.Call(g.ctx, cmd, nil, out); err != nil {
			g.t.Fatal(err)
		}
	}
	r.Lines = logs.Lines
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		g.t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(recordingFile), 0o755); err != nil {
		g.t.Fatal(err)
	}
	if err := os.WriteFile(recordingFile, append(text, '\n'), 0o644); err != nil {
		g.t.Fatal(err)
	}
}

// forward gives the browser a way to an address of the test network.
func (g *guest) forward(to netip.AddrPort) (addr string) {
	g.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				guest, err := g.bed.Peer.Dial(g.ctx, to)
				if err != nil {
					return
				}
				defer guest.Close()
				go io.Copy(guest, c)
				io.Copy(c, guest)
			}()
		}
	}()
	return l.Addr().String()
}

// serveRecorded runs statusd, for an agent that says what is recorded.
func serveRecorded(t *testing.T, r recording) (addr string) {
	t.Helper()
	program, err := compile(filepath.Join(workDir, "statusd"), "build", "../../init/statusd")
	if err != nil {
		t.Fatal(err)
	}
	say := func(data any) ctl.Handler {
		return func(context.Context, json.RawMessage) (any, error) { return data, nil }
	}
	socket := filepath.Join(vmtest.Dir(t), "look.sock")
	l, err := ctl.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	agent := ctl.NewServer(map[string]ctl.Handler{
		ctl.CmdStatus: say(r.Status), ctl.CmdTimeline: say(r.Timelines), ctl.CmdLog: say(r.Log), ctl.CmdServices: say(r.Services),
		ctl.CmdLogs: ctl.Handle(func(_ context.Context, a ctl.LogsArgs) (any, error) {
			said := func(l ctl.Line) bool { return l.N <= a.After }
			return ctl.Logs{Lines: slices.DeleteFunc(slices.Clone(r.Lines), said)}, nil
		}),
	}, nil)
	go agent.Serve(t.Context(), l)
	cmd := exec.CommandContext(t.Context(), program, "-listen", "127.0.0.1:0", "-agent", socket)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Wait() })
	said, err := bufio.NewReader(out).ReadString('\n')
	m := regexp.MustCompile(`at=(\S+)`).FindStringSubmatch(said)
	if m == nil {
		t.Fatalf("statusd says %q (%v)", said, err)
	}
	return m[1]
}

// screens are those that the page is looked at on.
var screens = []struct {
	name          string
	width, height int64
	dark          bool
}{
	{"wide", 1280, 900, false}, {"wide-dark", 1280, 900, true}, {"narrow", 390, 844, false}, {"narrow-dark", 390, 844, true},
	{"narrowest", 320, 568, false},
}

// look opens the page on every screen and judges what the browser makes of it.
func look(t *testing.T, url, name, saying string) {
	t.Helper()
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox) // CI is root
	ctx, cancel := chromedp.NewExecAllocator(vmtest.Context(t), opts...)
	defer cancel()
	ctx, cancel = chromedp.NewContext(ctx)
	defer cancel()
	var mu sync.Mutex
	var complaints []string
	chromedp.ListenTarget(ctx, func(event any) {
		if e, ok := event.(*cdplog.EventEntryAdded); ok {
			mu.Lock()
			defer mu.Unlock()
			complaints = append(complaints, e.Entry.Text+" "+e.Entry.URL)
		}
	})
	if err := os.MkdirAll(*pictures, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, s := range screens {
		scheme := "light"
		if s.dark {
			scheme = "dark"
		}
		var faults []string
		var text, title string
		var shot []byte
		err := chromedp.Run(ctx,
			cdplog.Enable(),
			chromedp.EmulateViewport(s.width, s.height),
			emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}),
			chromedp.Navigate(url),
			chromedp.Title(&title),
			chromedp.Text("main", &text, chromedp.ByQuery),
			chromedp.Evaluate(judge, &faults),
			chromedp.FullScreenshot(&shot, 100),
			chromedp.Evaluate(`document.querySelectorAll("details").forEach(d => d.open = true)`, nil),
		)
		if err != nil {
			t.Fatal(err)
		}
		var opened []string
		var shotOpened []byte
		var tree axTree
		err = chromedp.Run(ctx,
			chromedp.Evaluate(judge, &opened),
			chromedp.FullScreenshot(&shotOpened, 100),
			chromedp.ActionFunc(func(ctx context.Context) error {
				return cdp.Execute(ctx, "Accessibility.getFullAXTree", nil, &tree)
			}),
		)
		if err != nil {
			t.Fatal(err)
		}
		for file, png := range map[string][]byte{name + "-" + s.name: shot, name + "-" + s.name + "-opened": shotOpened} {
			if err := os.WriteFile(filepath.Join(*pictures, file+".png"), png, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range append(faults, opened...) {
			t.Errorf("%s, %s: %s", name, s.name, f)
		}
		if !strings.Contains(text, saying) || !strings.HasSuffix(title, "umbra") {
			t.Errorf("%s, %s: the page %q does not say %q:\n%s", name, s.name, title, saying, text)
		}
		tree.judge(t, name+", "+s.name)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, c := range complaints {
		t.Errorf("%s: the browser complains: %s", name, c)
	}
}

// axTree is what a screen reader is given. (The library's own type for it refuses what
// it does not know of a newer browser.)
type axTree struct {
	Nodes []struct {
		Ignored bool    `json:"ignored"`
		Role    axValue `json:"role"`
		Name    axValue `json:"name"`
	} `json:"nodes"`
}

type axValue struct {
	Value string `json:"value"`
}

func (tree axTree) judge(t *testing.T, where string) {
	t.Helper()
	count := make(map[string]int)
	for _, n := range tree.Nodes {
		if n.Ignored {
			continue
		}
		role := n.Role.Value
		count[role]++
		if n.Name.Value == "" && slices.Contains([]string{"image", "link", "heading", "region"}, role) {
			t.Errorf("%s: a %s has no name", where, role)
		}
	}
	for role, least := range map[string]int{"main": 1, "navigation": 1, "heading": 5, "image": 2, "region": 3, "table": 1} {
		if count[role] < least {
			t.Errorf("%s: %d elements of role %s, want %d at least: %v", where, count[role], role, least, count)
		}
	}
}

// judge returns what is wrong with the page on this screen: what goes beyond it, drawings
// beyond their frame, words over words, and words that are hard to read on their ground
// (WCAG 2.1, 1.4.3).
const judge = `(() => {
const faults = [];
const wide = document.documentElement.scrollWidth;
if (wide > innerWidth) faults.push("it is " + wide + " pixels wide on a screen of " + innerWidth);
const visible = e => e.getClientRects().length > 0;
for (const svg of document.querySelectorAll(".picture svg")) {
	const frame = svg.getBoundingClientRect(), words = [];
	for (const e of svg.querySelectorAll("rect, text")) {
		const r = e.getBoundingClientRect();
		if (r.left < frame.left - 1 || r.right > frame.right + 1 || r.bottom > frame.bottom + 1)
			faults.push("a drawing goes beyond its frame: " + e.outerHTML);
		if (e.tagName === "text") {
			for (const w of words) if (r.left < w.right && w.left < r.right) faults.push("words are over words: " + e.textContent);
			words.push(r);
		}
	}
}
const channels = c => c.match(/[\d.]+/g).map(Number);
const over = (top, below) => { const a = top[3] ?? 1; return [0, 1, 2].map(i => a * top[i] + (1 - a) * below[i]); };
const ground = e => {
	if (!e) return [255, 255, 255];
	const c = channels(getComputedStyle(e).backgroundColor);
	return c[3] === 0 ? ground(e.parentElement) : over(c, ground(e.parentElement));
};
const light = c => {
	const [r, g, b] = c.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
	return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
for (const e of document.querySelectorAll("body *")) {
	if (e.closest("svg") || !visible(e) || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
	const below = ground(e), [a, b] = [light(over(channels(getComputedStyle(e).color), below)), light(below)];
	const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
	if (contrast < 4.5) faults.push("contrast of " + contrast.toFixed(1) + ": " + e.outerHTML.slice(0, 80));
}
return faults;
})()`
