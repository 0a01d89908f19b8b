// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package ctl

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// moved is the timeline of a migration whose new hardware sat elsewhere: the
// old driver was unloaded last.
func moved() Timeline {
	at := func(name string, ms float64) Stamp { return Stamp{name, 5e9 + int64(ms*1e6)} }
	return Timeline{
		Recovery: 2, Role: "net0", Cause: CauseMigration, Started: 61e9,
		From: "e1000 0000:00:02.0", To: "8139cp 0000:00:05.0",
		Stamps: []Stamp{
			at(StampResumed, 0), at(StampDetected, 49.2), at(StampActive, 61), at(StampScanned, 130.04),
			at(StampProbed, 540), at(StampOpened, 568), at(StampLink, 578), at(StampReplayed, 580),
			at(StampReleased, 580.2), at(StampPassive, 640), at(StampUnloaded, 1150), at(StampHarvested, 63),
		},
		Frames:   Frames{Held: 334, Harvested: 12, Resent: 12, Dropped: 1},
		Deferred: []Deferred{{"net.ring.rx=512", "the device has none"}},
	}
}

func TestRenderTimeline(t *testing.T) {
	tests := []struct {
		name string
		t    Timeline
		want string
	}{
		{"a migration is told from its resume, in the order of time", moved(), `
net0 #2 (migration): e1000 0000:00:02.0 -> 8139cp 0000:00:05.0, 1150.0 ms
  stamp             ms        +ms
  resumed          0.0        0.0  |
  detected        49.2       49.2  |##
  active          61.0       11.8  |  .
  harvested       63.0        2.0  |  .
  scanned        130.0       67.0  |  ###
  probed         540.0      410.0  |     ################
  opened         568.0       28.0  |                     #
  link           578.0       10.0  |                      .
  replayed       580.0        2.0  |                      .
  released       580.2        0.2  |                      .
  passive        640.0       59.8  |                      ##
  unloaded      1150.0      510.0  |                        ####################
  frames: 334 held, 12 harvested, 12 re-sent, 1 dropped
  deferred: net.ring.rx=512 (the device has none)
`},
		{"without a resume it is told from its first stamp", Timeline{
			Recovery: 1, Role: "net0", Cause: CauseHotplug, From: "e1000 0000:00:02.0",
			Stamps: []Stamp{{StampActive, 9e6}, {StampDetected, 7e6}}, Error: "no device",
		}, `
net0 #1 (hot-plug): e1000 0000:00:02.0 -> -, 2.0 ms
  stamp             ms        +ms
  detected         0.0        0.0  |
  active           2.0        2.0  |############################################
  frames: 0 held, 0 harvested, 0 re-sent, 0 dropped
  error: no device
`},
		{"what was detected before the resume was known to have been has negative time", Timeline{
			Recovery: 1, Role: "net0", Cause: CauseMigration,
			Stamps: []Stamp{{StampDetected, 4e6}, {StampResumed, 5e6}, {StampPassive, 8e6}},
		}, `
net0 #1 (migration): - -> -, 3.0 ms
  stamp             ms        +ms
  detected        -1.0        0.0  |
  resumed          0.0        1.0  |###########
  passive          3.0        3.0  |           #################################
  frames: 0 held, 0 harvested, 0 re-sent, 0 dropped
`},
		{"one without stamps has no chart", Timeline{Recovery: 1, Role: "net0", Cause: CauseReload}, `
net0 #1 (reload): - -> -, 0.0 ms
  frames: 0 held, 0 harvested, 0 re-sent, 0 dropped
`},
		{"text from a guest cannot control the terminal", Timeline{Recovery: 1, Role: "net0\x1b[2J", Cause: "a\nb"}, `
net0\x1b[2J #1 (a\nb): - -> -, 0.0 ms
  frames: 0 held, 0 harvested, 0 re-sent, 0 dropped
`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b strings.Builder
			if err := RenderTimeline(&b, tt.t); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.TrimPrefix(tt.want, "\n"), b.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for line := range strings.Lines(b.String()) {
				if n := len(strings.TrimSuffix(line, "\n")); n > 80 {
					t.Errorf("%d columns: %s", n, line)
				}
			}
		})
	}
}

func TestRenderStatus(t *testing.T) {
	last := Timeline{Recovery: 1, Role: "net1", Cause: CauseReload}
	tests := []struct {
		name string
		s    Status
		want string
	}{
		{"roles make a table, messages follow it", Status{
			Version: "v0.1.0", Shadow: "on", Hostname: "app", Kernel: "6.1.0", Boottime: 3725e9, Recoveries: 1,
			Roles: []RoleStatus{
				{Name: "net0", Class: "net", Mode: ModePassive, Proxy: "net0", Device: "0000:00:02.0", Driver: "e1000",
					Iface: "eth0", MAC: "52:54:00:12:34:56", Carrier: true, Since: 3700e9, Log: 17, Deferred: 1, Standby: "0000:00:06.0",
					Shortcut: &Shortcut{Routes: 2}},
				{Name: "net1", Class: "net", Mode: ModeActive, Proxy: "net1", Held: 12, Since: 3724e9, Message: "no device",
					Shortcut: &Shortcut{Obstacle: "rp_filter is strict"}},
				{Name: "net2", Class: "net", Mode: ModePassive, Proxy: "net2", Since: 3724e9, Standby: "0000:00:07.0", OnStandby: true},
			},
			LastTimeline: &last,
		}, `
umbra v0.1.0 on app, Linux 6.1.0, up 1h2m5s, shadow on, 1 recovery

ROLE  MODE     SINCE  PROXY  DEVICE        DRIVER  IFACE  MAC                CARRIER  LOG  HELD  DEFERRED
net0  passive  25s    net0   0000:00:02.0  e1000   eth0   52:54:00:12:34:56  yes      17   0     1
net1  active   1s     net1   -             -       -      -                  no       0    12    0
net2  passive  1s     net2   -             -       -      -                  no       0    0     0
net0: a standby is at 0000:00:06.0
net0: 2 routes lead around the proxy
net1: no route leads around the proxy: rp_filter is strict
net1: no device
net2: what is sent goes over the standby at 0000:00:07.0

last recovery: net1 #1 (reload): - -> -, 0.0 ms
  frames: 0 held, 0 harvested, 0 re-sent, 0 dropped
`},
		{"no roles are said so", Status{Version: "v0.1.0", Shadow: "off"}, `
umbra v0.1.0, up 0s, shadow off, 0 recoveries
no roles
`},
		{"so is a version on trial, and what is next", Status{Version: "v0.1.0", Shadow: "on", Update: &Update{
			State: "on trial", Version: "1.3", TriesLeft: 1,
		}}, `
umbra v0.1.0, up 0s, shadow on, 0 recoveries
version 1.3: on trial, 1 try left
no roles
`},
		{"or one that waits for a boot, and one that failed", Status{Version: "v0.1.0", Shadow: "on", Update: &Update{
			State: "confirmed", Version: "1.2", Next: "1.3", Message: "1.1 did not\n",
		}}, `
umbra v0.1.0, up 0s, shadow on, 0 recoveries
version 1.2: confirmed, 1.3 is booted next: 1.1 did not\n
no roles
`},
		{"a configuration that was refused is told first, and does not reach the terminal raw", Status{
			Version: "v0.1.0", Shadow: "on", Faults: []string{"fw_cfg x: line 1: \x1b[31m: no such key"},
		}, `
umbra v0.1.0, up 0s, shadow on, 0 recoveries
CONFIGURATION REFUSED, no service is started: fw_cfg x: line 1: \x1b[31m: no such key
no roles
`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b strings.Builder
			if err := RenderStatus(&b, tt.s); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.TrimPrefix(tt.want, "\n"), b.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestRenderLog(t *testing.T) {
	tests := []struct {
		name    string
		entries []LogEntry
		want    string
	}{
		{"entries are grouped by role and sorted", []LogEntry{
			{Role: "net1", Key: "net.mtu", Value: "1500"},
			{Role: "net0", Key: "net.vlan+", Value: "100"},
			{Role: "net0", Key: "net.ring.rx", Value: "512", Deferred: "the device has none"},
		}, `
net0
  net.ring.rx=512  (deferred: the device has none)
  net.vlan+=100

net1
  net.mtu=1500
`},
		{"an empty log is said so", nil, "\nthe log is empty\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b strings.Builder
			if err := RenderLog(&b, tt.entries); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.TrimPrefix(tt.want, "\n"), b.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestRenderReportsWriteErrors(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	if RenderStatus(w, Status{}) == nil || RenderTimeline(w, Timeline{}) == nil || RenderLog(w, nil) == nil ||
		RenderTimelines(w, nil) == nil || RenderServices(w, nil) == nil || RenderLines(w, []Line{{}}) == nil {
		t.Error("a failed write was not reported")
	}
}

func TestRenderPrograms(t *testing.T) {
	var out strings.Builder
	err := RenderServices(&out, []Service{
		{Name: "app", State: "running", PID: 71, For: 90 * time.Second, Starts: 2, LastExit: "exit code 1"},
		{Name: "once", State: "waiting"},
	})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 27, 1, 2, 3, 4, time.UTC)
	err = RenderLines(&out, []Line{{N: 1, At: at, From: "app", Text: `{"msg":"a\b"}`}, {N: 2, At: at, From: "a\n", Text: "\x1b[2J"}})
	if err != nil {
		t.Fatal(err)
	}
	want := "" +
		"SERVICE  STATE    PID  FOR    STARTS  LAST END\n" +
		"app      running  71   1m30s  2       exit code 1\n" +
		"once     waiting  -    -      0       -\n" +
		"2026-11-27T01:02:03Z app: {\"msg\":\"a\\b\"}\n" +
		"2026-11-27T01:02:03Z a\\n: \\x1b[2J\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
}

func TestTimelineTimes(t *testing.T) {
	tl := moved()
	if d, ok := tl.Since(StampDetected); !ok || d != 49200*time.Microsecond {
		t.Errorf("Since(detected) = %v, %t", d, ok)
	}
	if _, ok := tl.Since("none"); ok {
		t.Error("a stamp that was not set was found")
	}
	ms := tl.Milliseconds()
	if len(ms) != len(tl.Stamps) || ms[StampResumed] != 0 || ms[StampUnloaded] != 1150 {
		t.Errorf("Milliseconds() = %v", ms)
	}
	for _, name := range StampNames() {
		if _, ok := tl.Stamp(name); !ok && name != StampStandby {
			t.Errorf("stamp %s of the nominal order is not in a whole recovery", name)
		}
	}
}

// The JSON of the types is read by programs that do not import this package.
func TestJSON(t *testing.T) {
	tl := Timeline{Recovery: 1, Role: "net0", Cause: CauseMigration, From: "a", To: "b", Started: 2,
		Stamps: []Stamp{{StampResumed, 3}}, Frames: Frames{4, 5, 6, 7}, Deferred: []Deferred{{"net.mtu=1", "r"}}, Error: "e"}
	tests := []struct {
		name string
		v    any
		want string
	}{
		{"timeline", tl, `{"recovery":1,"role":"net0","cause":"migration","from":"a","to":"b","started_boottime_ns":2,` +
			`"stamps":[{"name":"resumed","at_ns":3}],"frames":{"held":4,"harvested":5,"resent":6,"dropped":7},` +
			`"deferred":[{"op":"net.mtu=1","reason":"r"}],"error":"e"}`},
		{"status", Status{Version: "v", Shadow: "on", Boottime: 1, Recoveries: 2, Roles: []RoleStatus{{Name: "net0", Class: "net", Mode: ModePassive,
			Proxy: "p", Device: "d", Driver: "r", Iface: "i", MAC: "m", Carrier: true, Since: 3, Log: 4, Held: 5, Deferred: 6, Message: "x"}}},
			`{"version":"v","shadow":"on","boottime_ns":1,"roles":[{"name":"net0","class":"net","mode":"passive","proxy":"p","device":"d",` +
				`"driver":"r","iface":"i","mac":"m","carrier":true,"since_boottime_ns":3,"log":4,"held":5,"deferred":6,"message":"x"}],"recoveries":2}`},
		{"clock", Clock{1, 2, 3}, `{"monotonic_ns":1,"boottime_ns":2,"realtime_ns":3}`},
		{"migrated", Migrated{"g", 3}, `{"generation":"g","resumed_ago_ns":3}`},
		{"service", Service{Name: "app", State: "running", PID: 1, For: 2, Starts: 3, LastExit: "e"},
			`{"name":"app","state":"running","pid":1,"for_ns":2,"starts":3,"last_exit":"e"}`},
		{"question for lines", LogsArgs{Service: "app", After: 1}, `{"service":"app","after":1}`},
		{"lines", Logs{Lines: []Line{{N: 1, At: time.Unix(0, 0).UTC(), From: "app", Text: "x"}}, Last: 2},
			`{"lines":[{"n":1,"at":"1970-01-01T00:00:00Z","from":"app","text":"x"}],"last":2}`},
		{"log entry", LogEntry{Role: "net0", Key: "net.vlan+", Value: "1"}, `{"role":"net0","key":"net.vlan+","value":"1"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, err := json.Marshal(tt.v)
			if err != nil {
				t.Fatal(err)
			}
			if string(b) != tt.want {
				t.Errorf("got  %s\nwant %s", b, tt.want)
			}
		})
	}
}

func TestReadClock(t *testing.T) {
	a, err := ReadClock()
	if err != nil {
		t.Fatal(err)
	}
	b, err := ReadClock()
	if err != nil {
		t.Fatal(err)
	}
	if a.Monotonic <= 0 || b.Monotonic < a.Monotonic || b.Boottime < a.Boottime || a.Boottime < a.Monotonic {
		t.Errorf("clocks read %+v, then %+v", a, b)
	}
}
