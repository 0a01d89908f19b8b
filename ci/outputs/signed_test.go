// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package outputs

import (
	"path/filepath"
	"testing"

	"github.com/umbra-vm/umbra/ci/testbed/vmtest"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// TestSignedUpdate: firmware that enforces signatures starts a signed disk with slots, and
// what it is updated to, if that is signed; what has no signature is not written, and what
// has somebody else's does not come up.
func TestSignedUpdate(t *testing.T) {
	needsFlag(t)
	ctx := vmtest.Context(t)
	f := newFleet(t)
	ours := signLine(trustedKey(t), secureCert)
	first, good := buildVersion(t, f, "1", "", ours), buildVersion(t, f, "2", "settle_s = 5", ours)
	unsigned, foreign := buildVersion(t, f, "3", ""), buildVersion(t, f, "4", "", signLine(foreignKey(t)))

	v := vmtest.Start(ctx, t, secure(appliance(t, "A", first, diskOf(t, first), "e1000", "")))
	wantUpdate(ctx, t, v, ctl.Update{State: "confirmed", Version: "1"})
	f.offer(t, good, "app-1", false)
	f.waitBoots(ctx, t, 2)
	wantUpdate(ctx, t, v, ctl.Update{State: "confirmed", Version: "2"})

	f.offer(t, unsigned, "app-2", false)
	if _, err := v.WaitConsole(ctx, `shadowctl: .*not signed, as the version that runs is`); err != nil {
		t.Fatal(err)
	}
	wantUpdate(ctx, t, v, ctl.Update{State: "confirmed", Version: "2"})

	f.offer(t, foreign, "app-2", false)
	refused := v.Console.Next()
	for range 3 { // its tries
		line, err := v.Console.Wait(ctx, `app-4.*(Access [Dd]enied|Security [Vv]iolation)`, refused)
		if err != nil {
			t.Fatal(err)
		}
		refused = line.N + 1
		f.orders(nil)
		if err := v.QMP.Execute(ctx, "system_reset", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	f.waitBoots(ctx, t, 3)
	wantUpdate(ctx, t, v, ctl.Update{State: "confirmed", Version: "2", Failed: "4", Message: "4 did not prove itself in 3 tries"})
	f.wantBoots(t, "app-1", "app-2", "app-2")
}

// foreignKey makes a key that no firmware knows, and its certificate.
func foreignKey(t *testing.T) (key, cert string) {
	t.Helper()
	key, cert = filepath.Join(t.TempDir(), "key"), filepath.Join(t.TempDir(), "cert")
	run(t, "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=somebody", "-days", "1", "-keyout", key, "-out", cert)
	return key, cert
}
