// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package examples

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/ci/testbed/peer"
	"github.com/umbra-vm/umbra/ci/testbed/vmtest"
	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// patience ends a test that hangs, and attempt one question to a guest that may not
// be up yet. Neither is a bound that anything has to meet.
const (
	patience = 3 * time.Minute
	attempt  = 10 * time.Second
)

var errHangs = errors.New("the test hangs")

// An appliance is one of the examples, running.
type appliance struct {
	*rig.Rig
	t    testing.TB
	ctx  context.Context
	name string
}

// boot builds an example and boots it with nics, which are on bed or on one of their own.
func boot(t *testing.T, name string, bed *testbed.Bed, nics ...rig.NIC) *appliance {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(vmtest.Context(t), patience, errHangs)
	t.Cleanup(cancel)
	c, err := image.Load(filepath.Join("../../image/examples", name, image.DefaultFile))
	if err != nil {
		t.Fatal(err)
	}
	b, err := image.Build(ctx, c, filepath.Join(t.TempDir(), name), image.Options{
		Progress: func(step string) { fmt.Fprintf(os.Stderr, "examples: %s: %s\n", name, step) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: an initramfs of %.1f MiB", name, float64(b.Files[b.Initramfs].Size)/(1<<20))
	r, err := rig.Start(ctx, rig.Options{Bed: bed, Bundle: b, Dir: vmtest.Dir(t)}, nics...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(vmtest.Describe(r.Host))
		}
		r.Close()
	})
	return &appliance{r, t, ctx, name}
}

// open opens a network for the time of the test.
func open(t *testing.T, subnet netip.Prefix) *testbed.Bed {
	t.Helper()
	bed, err := testbed.Open(vmtest.Context(t), testbed.Options{Dir: vmtest.Dir(t), Subnet: subnet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bed.Fault(); err != nil {
			t.Errorf("not the guest's fault: %v", err)
		}
		bed.Close()
	})
	return bed
}

// until waits until ok has nothing to say.
func (a *appliance) until(what string, ok func() error) {
	a.t.Helper()
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-a.ctx.Done():
			a.t.Fatalf("%s: %v; %v", what, err, context.Cause(a.ctx))
		case <-time.After(rig.Poll):
		}
	}
}

// move migrates the guest to a host with nics, and waits until its roles have them.
func (a *appliance) move(nics ...rig.NIC) {
	a.t.Helper()
	if _, err := a.Move(a.ctx, nics...); err != nil {
		a.t.Fatalf("migration to a host with %v: %v", nics, err)
	}
	for _, role := range a.Bundle.Roles {
		a.until("recovery of "+role, func() error {
			ctx, cancel := context.WithTimeout(a.ctx, attempt)
			defer cancel()
			var tls []ctl.Timeline
			if err := a.Call(ctx, ctl.CmdTimeline, ctl.RoleArgs{Role: role}, &tls); err != nil {
				return err
			}
			if len(tls) < 2 { // the first is of the boot
				return errors.New("there was none")
			}
			tl := tls[1]
			if tl.Error != "" || tl.Frames.Dropped != 0 {
				a.t.Fatalf("recovery of %s: error %q, %d frames dropped", role, tl.Error, tl.Frames.Dropped)
			}
			if _, done := tl.Stamp(ctl.StampPassive); !done {
				return errors.New("it is not over")
			}
			a.t.Logf("%s: role %s went from %s to %s", a.name, role, tl.From, tl.To)
			return nil
		})
	}
}

// browser is a program's way to web servers, from a host of a test network.
func browser(h *peer.Host) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return nil, err
			}
			return h.Dial(ctx, to)
		},
	}}
}

// get asks a web server until it answers.
func (a *appliance) get(client *http.Client, url string) (header http.Header, body string) {
	a.t.Helper()
	a.until("GET "+url, func() error {
		ctx, cancel := context.WithTimeout(a.ctx, attempt)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", resp.Status, text)
		}
		header, body = resp.Header, string(text)
		return err
	})
	return header, body
}
