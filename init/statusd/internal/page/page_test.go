// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package page_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/net/html"

	"github.com/umbra-vm/umbra/init/statusd/internal/page"
	"github.com/umbra-vm/umbra/init/statusd/internal/state"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// source is a state, or why there is none.
type source struct {
	state *state.State
	err   error
}

func (s source) Read(context.Context) (*state.State, error) { return s.state, s.err }

// evil is what whoever names things in a guest may try.
const evil = `"><script>alert(1)</script><img src=x onerror=alert(2)>` + "\x1b[31mred\x1b[0m\u202e\x00\xff'"

// whole is a state with everything in it, evil where a guest, a host or a device can
// choose the words.
func whole() *state.State {
	at := func(name string, ms float64) ctl.Stamp { return ctl.Stamp{Name: name, At: 5e9 + int64(ms*1e6)} }
	return &state.State{
		At: time.Unix(1000, 0),
		Status: ctl.Status{
			Update:  &ctl.Update{State: ctl.UpdateOnTrial, Version: "1.4.3", TriesLeft: 2, Next: "1.5" + evil, Failed: "1.4.2", Message: "1.4.2 did not prove itself" + evil},
			Version: "devel", Shadow: "on", Hostname: "guest" + evil, Kernel: "6.1.0" + evil, Boottime: 100e9, Recoveries: 1,
			Roles: []ctl.RoleStatus{
				{Name: "net0", Class: "net", Mode: ctl.ModePassive, Proxy: "net0", Device: "0000:00:02.0", Driver: "8139cp", Iface: "e0",
					MAC: "52:54:00:12:34:56", Carrier: true, Since: 90e9, Log: 12, Held: 0, Deferred: 1},
				{Name: "net1", Class: "net", Mode: ctl.ModeActive, Held: 7, Since: 95e9, Message: "no device" + evil},
				{Name: "net2", Class: "net", Mode: ctl.ModePassive, Standby: "0000:00:05.0", OnStandby: true},
			},
		},
		Timelines: []ctl.Timeline{
			{Recovery: 1, Role: "net0", Cause: "boot", To: "e1000 0000:00:02.0", Stamps: []ctl.Stamp{at("detected", -900), at("passive", -500)}},
			{Recovery: 2, Role: "net0", Cause: ctl.CauseMigration, From: "e1000" + evil, To: "8139cp 0000:00:02.0",
				Stamps: []ctl.Stamp{at("resumed", 0), at("active", 61), at("probed", 540), at("passive", 640)},
				Frames: ctl.Frames{Held: 334, Harvested: 12, Resent: 11, Dropped: 1}, Error: "a fault" + evil,
				Deferred: []ctl.Deferred{{Op: "net.ring.rx=512", Reason: "none" + evil}}},
			{Recovery: 3, Role: "net1", Cause: ctl.CauseHotplug, Stamps: []ctl.Stamp{at("detected"+evil, 0)}},
		},
		Log: []ctl.LogEntry{
			{Role: "net0", Key: "net.mtu", Value: "1400"},
			{Role: "net0", Key: "net.ring.rx", Value: "512" + evil, Deferred: "the device has none"},
		},
		Services: []ctl.Service{
			{Name: "app" + evil, State: "running", PID: 71, For: time.Minute, Starts: 2, LastExit: "exit code 1" + evil},
			{Name: "once", State: "ended", Starts: 1},
		},
		Tails: map[string][]ctl.Line{
			"init":       {{N: 1, At: time.Unix(1, 0), From: "init", Text: "boots"}},
			"app" + evil: {{N: 2, At: time.Unix(2, 0), Text: "\x1b[1mhello\x1b[0m" + evil}, {N: 3, Text: "<b>world</b>"}},
		},
	}
}

func get(t *testing.T, src page.Source, method, target string) *http.Response {
	t.Helper()
	w := httptest.NewRecorder()
	page.New(src, slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest(method, target, nil))
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// elements returns the elements of a page and its text.
func elements(t *testing.T, text string) (all []*html.Node, words string) {
	t.Helper()
	root, err := html.Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for n := range root.Descendants() {
		switch n.Type {
		case html.ElementNode:
			all = append(all, n)
		case html.TextNode:
			b.WriteString(n.Data + " ")
		}
	}
	return all, b.String()
}

func attr(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

func TestPageTellsAll(t *testing.T) {
	r := get(t, source{state: whole()}, "GET", "/")
	if r.StatusCode != http.StatusOK {
		t.Fatalf("status %s", r.Status)
	}
	_, words := elements(t, body(t, r))
	words = strings.Join(strings.Fields(words), " ")
	for _, want := range []string{
		"up 1m40s", "Version of the image 1.4.3 on trial 1.4.2 did not prove itself", "Next boot 1.5", "Tries left 2", "Has not proved itself 1.4.2",
		"net0 passive mode", "net1 active mode", "no device", "net2 over the standby", "Device 0000:00:02.0", "Driver 8139cp",
		"Link yes", "Frames held 7", "enter active mode 61.0 ms probe 479.0 ms", "net.ring.rx=512", "the device has none",
		"net0 #2: migration 640.0 ms", "→ 8139cp 0000:00:02.0", "334 held, 12 harvested, 11 re-sent, 1 dropped", "a fault",
		"probed probe 540.0 ms", "net1 #3: hot-plug under way", "no device → no device",
		"init process 1", "00:00:01 boots", "running", "Process 71", "Starts 2", "Last end exit code 1", "once ended",
		"hello", "<b>world</b>", "As of 1970-01-01 00:16:40 UTC",
	} {
		if !strings.Contains(words, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if t.Failed() {
		t.Log(words)
	}
	if strings.Index(words, "net1 #3") > strings.Index(words, "net0 #2") {
		t.Error("the last recovery is not the first on the page")
	}
	if strings.Contains(words, "net.mtu") {
		t.Error("a setting that is not deferred is among those that are")
	}
}

// What a guest says is text, whatever is in it.
func TestPageRunsNothing(t *testing.T) {
	text := body(t, get(t, source{state: whole()}, "GET", "/"))
	all, words := elements(t, text)
	for _, n := range all {
		if slices.Contains([]string{"script", "iframe", "img", "object", "form", "style", "base"}, n.Data) {
			t.Errorf("element %s", n.Data)
		}
		for _, a := range n.Attr {
			if strings.HasPrefix(a.Key, "on") || a.Key == "style" || strings.HasPrefix(strings.TrimSpace(a.Val), "javascript:") {
				t.Errorf("%s has the attribute %s=%q", n.Data, a.Key, a.Val)
			}
		}
	}
	if n := strings.Count(words, "<script>"); n < 8 {
		t.Errorf("evil words are shown %d times: they are not where this test thinks", n)
	}
	for _, r := range []rune{0, 0x1b, 0x202e} {
		if strings.ContainsRune(text, r) {
			t.Errorf("character %U is on the page", r)
		}
	}
}

// Whoever cannot see a picture, or moves by headings or keys, finds the same.
func TestPageIsAccessible(t *testing.T) {
	all, _ := elements(t, body(t, get(t, source{state: whole()}, "GET", "/")))
	ids := make(map[string]bool)
	for _, n := range all {
		if id := attr(n, "id"); id != "" && ids[id] {
			t.Errorf("two elements have the id %s", id)
		} else {
			ids[id] = true
		}
	}
	level, pictures := 0, 0
	for _, n := range all {
		if ref := attr(n, "aria-labelledby"); !ids[ref] && ref != "" {
			t.Errorf("%s is named by %s, which is not there", n.Data, ref)
		}
		if n.Data == "html" && attr(n, "lang") == "" {
			t.Error("the page has no language")
		}
		if n.Data == "svg" && attr(n, "aria-hidden") == "" {
			pictures++
			if attr(n, "role") != "img" || !strings.Contains(attr(n, "aria-label"), "Recovery") {
				t.Errorf("a picture is called %q", attr(n, "aria-label"))
			}
		}
		if attr(n, "role") == "region" && (attr(n, "tabindex") != "0" || attr(n, "aria-label") == "") {
			t.Errorf("%s scrolls, and cannot be reached by keys, or has no name", n.Data)
		}
		if m := regexp.MustCompile(`^h([1-6])$`).FindStringSubmatch(n.Data); m != nil {
			now := int(m[1][0] - '0')
			if now > level+1 {
				t.Errorf("heading %s follows one of level %d", n.Data, level)
			}
			level = now
		}
	}
	if pictures != 3 {
		t.Errorf("%d pictures of 3 recoveries", pictures)
	}
}

// A version that has proved itself has no tries, and one of no slot is not spoken of.
func TestVersions(t *testing.T) {
	s := whole()
	s.Status.Update = &ctl.Update{State: ctl.UpdateConfirmed, Version: "1.4.3"}
	_, words := elements(t, body(t, get(t, source{state: s}, "GET", "/")))
	if words = strings.Join(strings.Fields(words), " "); !strings.Contains(words, "1.4.3 confirmed Next boot 1.4.3 Roles") {
		t.Errorf("the page says %s", words)
	}
	got := values(t, body(t, get(t, source{state: s}, "GET", "/metrics")))
	if _, tries := got["umbra_slot_tries_left"]; tries || got["umbra_slot_confirmed"] != 1 || got["umbra_slot_info failed= next= version=1.4.3"] != 1 {
		t.Errorf("metrics %v", got)
	}
	s.Status.Update = nil
	page, text := body(t, get(t, source{state: s}, "GET", "/")), body(t, get(t, source{state: s}, "GET", "/metrics"))
	if strings.Contains(page, "Version of the image") || strings.Contains(text, "umbra_slot") {
		t.Errorf("a guest that is on no disk with slots has versions: %s\n%s", page, text)
	}
}

func TestAnAgentThatIsAwayIsSaidToBe(t *testing.T) {
	away := source{err: errors.New("connection refused" + evil)}
	r := get(t, away, "GET", "/")
	text := body(t, r)
	all, words := elements(t, text)
	if r.StatusCode != http.StatusServiceUnavailable || !strings.Contains(words, "The agent does not answer: connection refused") {
		t.Errorf("status %s: %s", r.Status, text)
	}
	if slices.ContainsFunc(all, func(n *html.Node) bool { return n.Data == "script" }) {
		t.Error("a script is on the page")
	}
	r = get(t, away, "GET", "/metrics")
	if got := values(t, body(t, r)); r.StatusCode != http.StatusOK || len(got) != 1 || got["umbra_up"] != 0 {
		t.Errorf("status %s, metrics %v", r.Status, got)
	}
}

func TestRequests(t *testing.T) {
	for _, tt := range []struct {
		rule, method, target string
		status               int
		holds                string
	}{
		{"the page is at the root", "GET", "/", 200, "Load every 5 s"},
		{"it may be asked for without its body", "HEAD", "/", 200, ""},
		{"it loads itself again if asked to", "GET", "/?every=5", 200, `<meta http-equiv="refresh" content="5">`},
		{"not too often", "GET", "/?every=1", 200, "Load every 5 s"},
		{"nor too seldom", "GET", "/?every=99999", 200, `content="3600"`},
		{"nor by what is no number", "GET", "/?every=0;url=http://evil", 200, "Load every 5 s"},
		{"its style comes from here", "GET", "/style.css", 200, "prefers-color-scheme"},
		{"nothing can be posted", "POST", "/", 405, ""},
		{"nor put", "PUT", "/metrics", 405, ""},
		{"nor deleted", "DELETE", "/", 405, ""},
		{"other paths lead nowhere", "GET", "/etc/passwd", 404, ""},
		{"nor those that climb", "GET", "/../page.go", 307, ""},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			r := get(t, source{state: whole()}, tt.method, tt.target)
			if text := body(t, r); r.StatusCode != tt.status || !strings.Contains(text, tt.holds) {
				t.Errorf("status %s, want %d and %q in\n%s", r.Status, tt.status, tt.holds, text)
			}
			h := r.Header
			if !strings.HasPrefix(h.Get("Content-Security-Policy"), "default-src 'none'; style-src 'self'") ||
				h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cache-Control") != "no-store" {
				t.Errorf("headers %v", h)
			}
		})
	}
}

// values reads metrics as Prometheus does: by name and labels.
func values(t *testing.T, text string) map[string]float64 {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	out := make(map[string]float64)
	for name, f := range families {
		if !strings.HasPrefix(name, "umbra_") || f.GetHelp() == "" || f.GetType() == dto.MetricType_UNTYPED {
			t.Errorf("metric %s of type %s: %q", name, f.GetType(), f.GetHelp())
		}
		for _, m := range f.GetMetric() {
			key := name
			for _, l := range m.GetLabel() {
				key += " " + l.GetName() + "=" + l.GetValue()
			}
			out[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return out
}

func TestMetrics(t *testing.T) {
	text := body(t, get(t, source{state: whole()}, "GET", "/metrics"))
	got := values(t, text)
	for name, want := range map[string]float64{
		"umbra_up":                     1,
		"umbra_uptime_seconds":         100,
		"umbra_slot_confirmed":         0,
		"umbra_slot_tries_left":        2,
		"umbra_role_passive role=net0": 1, "umbra_role_passive role=net1": 0,
		"umbra_role_on_standby role=net2": 1, "umbra_role_carrier role=net0": 1, "umbra_role_mode_seconds role=net0": 10,
		"umbra_role_held_frames role=net1": 7, "umbra_role_log_operations role=net0": 12, "umbra_role_deferred_operations role=net0": 1,
		"umbra_role_info class=net device=0000:00:02.0 driver=8139cp role=net0 standby=": 1,
		"umbra_role_recoveries_total role=net0":                                          2, "umbra_role_recoveries_total role=net1": 3, "umbra_role_recoveries_total role=net2": 0,
		"umbra_role_last_recovery_seconds cause=migration role=net0": 0.64, "umbra_role_last_recovery_failed role=net0": 1,
		"umbra_role_last_recovery_frames fate=dropped role=net0": 1, "umbra_role_last_recovery_frames fate=held role=net0": 334,
		"umbra_service_running service=once state=ended": 0, "umbra_service_starts_total service=once": 1,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v (%t), want %v", name, v, ok, want)
		}
	}
	if !slices.ContainsFunc(slices.Collect(maps.Keys(got)), func(name string) bool {
		return strings.HasPrefix(name, "umbra_slot_info failed=1.4.2 next=1.5") && strings.HasSuffix(name, " version=1.4.3")
	}) {
		t.Errorf("no version of the image among %v", got)
	}
	if _, ok := got["umbra_role_last_recovery_seconds cause=hot-plug role=net1"]; ok {
		t.Error("a recovery that is not over has a length")
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promtool would say: %v, %v", problems, err)
	}
}

// The names are an interface, and the document is where people find it.
func TestMetricsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(umbra_[a-z_]+)").FindAllStringSubmatch(string(doc), -1) {
		told = append(told, m[1])
	}
	var served []string
	for key := range values(t, body(t, get(t, source{state: whole()}, "GET", "/metrics"))) {
		name, _, _ := strings.Cut(key, " ")
		served = append(served, name)
	}
	slices.Sort(told)
	slices.Sort(served)
	if diff := cmp.Diff(slices.Compact(served), told); diff != "" {
		t.Errorf("metrics in docs/configuration.md (-served +told):\n%s", diff)
	}
}
