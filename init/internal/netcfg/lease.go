// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netcfg

import (
	"math"
	"net/netip"
	"time"
)

// Forever is the time of what never comes.
const Forever = time.Duration(math.MaxInt64)

// minRetry is the shortest wait between two attempts to extend a lease (RFC
// 2131, 4.4.5), minRetry6 of DHCPv6 (RFC 8415, 7.6, REN_TIMEOUT).
const (
	minRetry  = 60 * time.Second
	minRetry6 = 10 * time.Second
)

// Lease is what a DHCP server has granted.
type Lease struct {
	Address netip.Prefix `json:"address"`
	Server  netip.Addr   `json:"server"`
	Routes  []Route      `json:"routes,omitempty"`
	DNS     []netip.Addr `json:"dns,omitempty"`
	Domain  string       `json:"domain,omitempty"`
	NTP     []netip.Addr `json:"ntp,omitempty"`
	Term
}

// Term is how long a lease lasts. Times are those of CLOCK_BOOTTIME, so that they
// mean the same to the next process and count the time in which the machine slept.
type Term struct {
	Granted time.Duration `json:"granted_ns"`
	Renew   time.Duration `json:"renew_ns"`  // T1: ask the server that granted it
	Rebind  time.Duration `json:"rebind_ns"` // T2: ask any server
	Expires time.Duration `json:"expires_ns"`
}

// Route is one route; the default route has a destination of length 0.
type Route struct {
	To      netip.Prefix `json:"to"`
	Gateway netip.Addr   `json:"gateway"` // unspecified: on the link itself
}

// Phase is where a lease is in its life (RFC 2131, figure 5).
type Phase string

// The phases.
const (
	Bound     Phase = "bound"
	Renewing  Phase = "renewing"
	Rebinding Phase = "rebinding"
	Expired   Phase = "expired"
)

// Phase returns the phase at a time.
func (t Term) Phase(now time.Duration) Phase {
	switch {
	case now >= t.Expires:
		return Expired
	case now >= t.Rebind:
		return Rebinding
	case now >= t.Renew:
		return Renewing
	}
	return Bound
}

// NextTry returns when to try next to extend the lease after an attempt at
// the given time has failed: after half of what is left of the phase, but not
// before the shortest wait, and at the end of the phase at the latest (RFC 2131,
// 4.4.5). While the lease is Bound it returns T1.
func (t Term) NextTry(now, shortest time.Duration) time.Duration {
	var end time.Duration
	switch t.Phase(now) {
	case Bound:
		return t.Renew
	case Renewing:
		end = t.Rebind
	case Rebinding:
		end = t.Expires
	case Expired:
		return now
	}
	if end == Forever {
		return now + shortest
	}
	return min(end, now+max(shortest, (end-now)/2))
}

// infinite is the lease time that means for ever (RFC 2131, 3.3).
const infinite = math.MaxUint32 * time.Second

// setTimes sets the times of a lease that was asked for at the time granted:
// the server counts from when it answered, which is no earlier. Where T1 and
// T2 are missing (0) or make no sense they are at 1/2 and 7/8 of the lease.
func (t *Term) setTimes(granted, lease, t1, t2 time.Duration) {
	t.Granted = granted
	if lease >= infinite {
		t.Renew, t.Rebind, t.Expires = Forever, Forever, Forever
		return
	}
	if t2 <= 0 || t2 >= lease {
		t2 = lease / 8 * 7
	}
	if t1 <= 0 || t1 >= t2 {
		t1 = min(lease/2, t2)
	}
	t.Renew, t.Rebind, t.Expires = granted+t1, granted+t2, granted+lease
}
