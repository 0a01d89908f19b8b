// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/internal/netcfg"
	"github.com/umbra-vm/umbra/init/internal/supervise"
)

func TestNobodyIsAskedForTheTimeUnlessToldSo(t *testing.T) {
	leases := t.TempDir()
	offered := netcfg.State{Lease: &netcfg.Lease{NTP: []netip.Addr{netip.MustParseAddr("10.0.2.4")}}}
	if err := (netcfg.Store{Dir: leases}).Save("net0", offered); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		rule string
		cfg  config.NTP
		runs bool
		want []string
	}{
		{"nobody, though DHCP offers a server", config.NTP{}, false, nil},
		{"nor if that is said", config.NTP{DHCP: config.Off}, false, nil},
		{"those of the configuration", config.NTP{Servers: []string{"a"}}, true, []string{"a"}},
		{"those of DHCP", config.NTP{DHCP: config.On}, true, []string{"10.0.2.4"}},
		{"of both each once", config.NTP{Servers: []string{"10.0.2.4", "a"}, DHCP: config.On}, true, []string{"10.0.2.4", "a"}},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			runs := slices.ContainsFunc(specs(&config.Config{NTP: tt.cfg}), func(s supervise.Spec) bool { return s.Name == ntpProgram })
			if runs != tt.runs {
				t.Errorf("ntpd is started: %t, want %t", runs, tt.runs)
			}
			if got := timeServers(tt.cfg, leases); !slices.Equal(got, tt.want) {
				t.Errorf("asks %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAMoveIsToldToWhoWatches(t *testing.T) {
	file := filepath.Join(t.TempDir(), "moved")
	tell := tellMoved(file, slog.New(slog.DiscardHandler))
	tell() // before anybody watches
	told := moves(t.Context(), file, time.Millisecond)
	select {
	case <-told:
		t.Error("told of a move that was before")
	case <-time.After(50 * time.Millisecond):
	}
	for range 2 {
		tell()
		<-told
	}
}
