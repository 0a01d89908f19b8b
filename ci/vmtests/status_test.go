// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// statusImage has a status page on its network.
var statusImage = build("status", rig.GuestOptions{
	Drivers: []string{"e1000", "8139cp"}, Witness: pace, Extra: fmt.Sprintf("[status]\nrole = %q\n", rig.Role),
})

// TestStatusPage reads a guest's page and metrics over its network, while the guest
// loses its agent and moves, and what its programs print over the control port.
func TestStatusPage(t *testing.T) {
	g := start(t, statusImage, e1000At2, cmdline("nemesis=page nemesis=kill@now"))
	g.waitConsole("taken over from the last agent")
	g.traffic()
	before := g.page("/", "e1000")
	if !strings.Contains(before, "passive mode") || !strings.Contains(before, "witness") || strings.Contains(before, "8139cp") {
		t.Errorf("the page before the move:\n%s", before)
	}
	g.move(rtl8139At2)
	tl := g.recovered(1)
	g.page("/", "8139cp")
	after := g.page("/", "net0 #2: migration")
	for _, picture := range []string{`aria-label="Recovery 1 of net0, `, `aria-label="Recovery 2 of net0, `} {
		if !strings.Contains(after, picture) {
			t.Errorf("the page after the move has no picture with %s:\n%s", picture, after)
		}
	}
	g.measured(tl)

	// No privilege, no other way to the page, and no other command.
	g.waitConsole("the page has Uid=65533 Gid=65533 CapEff=0+ CapBnd=0+ NoNewPrivs=1")
	g.waitConsole("the page on loopback: .*connection refused")
	g.waitConsole("a reload asked for by the page's socket: .*unknown command")

	var services []ctl.Service
	if err := g.Call(g.ctx, ctl.CmdServices, nil, &services); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"shadowd", "netcfgd", "statusd", "witness", "nemesis"} {
		if !slices.ContainsFunc(services, func(s ctl.Service) bool { return s.Name == name && s.State == "running" }) {
			t.Errorf("%s does not run: %+v", name, services)
		}
	}
	var logs ctl.Logs
	if err := g.Call(g.ctx, ctl.CmdLogs, ctl.LogsArgs{Service: "nemesis"}, &logs); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(logs.Lines, func(l ctl.Line) bool { return strings.Contains(l.Text, "killed the agent") && l.From == "nemesis" }) {
		t.Errorf("lines of the nemesis: %+v", logs)
	}
	g.unharmed()
}

// pageAddr is where the guest serves its page.
func (g *guest) pageAddr() (addr netip.AddrPort) {
	g.t.Helper()
	leases := g.bed.DHCP.Leases()
	ip, ok := leases[rig.GuestMAC]
	if !ok {
		g.t.Fatalf("the guest has no lease: %v", leases)
	}
	return netip.AddrPortFrom(ip, 9100)
}

// page reads a document of the guest's page once it says what is waited for: an agent
// that was killed does not answer for a moment, and an answer may be a second old.
func (g *guest) page(path, saying string) (text string) {
	g.t.Helper()
	addr := g.pageAddr()
	client := http.Client{Timeout: callTimeout, Transport: &http.Transport{
		DisableKeepAlives: true, // what a witness of the wire counts is to have ended
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return g.bed.Peer.Dial(ctx, addr)
		},
	}}
	g.until("the page says "+saying, func() error {
		r, err := client.Get("http://" + addr.String() + path)
		if err != nil {
			return err
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		text = string(body)
		if err == nil && (r.StatusCode != http.StatusOK || !strings.Contains(text, saying)) {
			err = errors.New(r.Status + ": " + regexp.MustCompile(`\s+`).ReplaceAllString(text, " "))
		}
		return err
	})
	return text
}

// measured checks the metrics of a guest that has moved once against the timeline.
func (g *guest) measured(tl ctl.Timeline) {
	g.t.Helper()
	text := g.page("/metrics", `umbra_role_recoveries_total{role="net0"} 2`)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		g.t.Fatalf("metrics: %v\n%s", err, text)
	}
	took, _ := tl.Since(ctl.StampPassive)
	for name, want := range map[string]float64{
		"umbra_role_passive": 1, "umbra_role_carrier": 1, "umbra_role_last_recovery_seconds": took.Seconds(),
	} {
		got := -1.0
		for _, m := range families[name].GetMetric() {
			if slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == "role" && l.GetValue() == rig.Role }) {
				got = m.GetGauge().GetValue()
			}
		}
		if got != want {
			g.t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}
