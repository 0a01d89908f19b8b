// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netcfg

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/umbra-vm/umbra/init/internal/onestep"
)

// State is what is remembered of a role, so that the next process takes over
// from this one without a question to anybody and without taking an address
// away for an instant.
type State struct {
	Ifindex  int    `json:"ifindex"`
	ClientID string `json:"client_id"` // DHCP option 61, hexadecimal

	Lease *Lease `json:"lease,omitempty"`
	// Addresses and Routes are what was put on the interface.
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	Routes    []Route        `json:"routes,omitempty"`
	DNS       []netip.Addr   `json:"dns,omitempty"`
	Domain    string         `json:"domain,omitempty"`

	V6 State6 `json:"ipv6,omitzero"`
}

// State6 is what is remembered of what the network gives by IPv6.
type State6 struct {
	Ifindex int     `json:"ifindex,omitempty"` // that has the lease's address
	DUID    string  `json:"duid,omitempty"`    // DHCPv6 option 1, hexadecimal
	Lease   *Lease6 `json:"lease,omitempty"`
	// Servers are the name servers that routers advertise: the kernel tells of
	// them and keeps none.
	Servers []Server `json:"servers,omitempty"`
}

// Server is a name server that a router has advertised.
type Server struct {
	Addr    netip.Addr    `json:"addr"`
	Expires time.Duration `json:"expires_ns"` // CLOCK_BOOTTIME
}

// Store keeps one file per role in a directory.
type Store struct{ Dir string }

func (s Store) path(role string) string { return filepath.Join(s.Dir, role+".json") }

// Load returns the state of a role; that of a role never seen is empty, as is
// one that cannot be read, together with the error.
func (s Store) Load(role string) (State, error) {
	text, err := os.ReadFile(s.path(role))
	if errors.Is(err, os.ErrNotExist) {
		return State{}, nil
	}
	if err != nil {
		return State{}, fmt.Errorf("state of %s: %w", role, err)
	}
	var st State
	if err := json.Unmarshal(text, &st); err != nil {
		return State{}, fmt.Errorf("state of %s: %w", role, err)
	}
	return st, nil
}

// Save replaces the state of a role, in one step.
func (s Store) Save(role string, st State) error {
	text, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return fmt.Errorf("state of %s: %w", role, err)
	}
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return fmt.Errorf("state of %s: %w", role, err)
	}
	if err := onestep.Replace(s.path(role), append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("state of %s: %w", role, err)
	}
	return nil
}

// TimeServers returns the NTP servers that came with the leases whose states are in a
// directory, each once.
func TimeServers(dir string) []netip.Addr {
	files, _ := filepath.Glob(filepath.Join(dir, "*.json")) // an error is that of a pattern
	var servers []netip.Addr
	for _, file := range files {
		st, err := Store{dir}.Load(strings.TrimSuffix(filepath.Base(file), ".json"))
		if err != nil || st.Lease == nil {
			continue // the next state is another one
		}
		for _, a := range st.Lease.NTP {
			if !slices.Contains(servers, a) {
				servers = append(servers, a)
			}
		}
	}
	return servers
}
