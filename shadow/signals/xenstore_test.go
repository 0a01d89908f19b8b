// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package signals

import (
	"context"
	"testing"

	"github.com/umbra-vm/umbra/drivers/xenstore/xenstoretest"
)

func TestXenstore(t *testing.T) {
	store := xenstoretest.New(t, map[string]string{"domid": "7"})
	conn, err := store.Open()
	if err != nil {
		t.Fatal(err)
	}
	x, err := newXenstore(nil, conn)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan Migrated, 8)
	ended := make(chan error, 1)
	go func() { ended <- x.Watch(ctx, func(m Migrated) { signals <- m }) }()

	for _, tt := range []struct {
		rule   string
		happen func()
		detail string
	}{
		{"on stock Xen a resume is a signal without words", store.Resume, ""},
		{"the toolstack's words are passed on", func() { store.Set(MigrationNode, "1 migrated devices") }, "1 migrated devices"},
		{"a resume with words there is a signal too", store.Resume, "1 migrated devices"},
		{"a node that may not be read is a signal all the same", func() { store.Deny(MigrationNode); store.Resume() }, ""},
	} {
		tt.happen()
		got := <-signals
		if got.Source != XenStore || got.Detail != tt.detail || got.At == 0 {
			t.Errorf("%s: got %+v, want detail %q", tt.rule, got, tt.detail)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	if len(signals) > 0 {
		t.Errorf("a signal that nothing is the reason for: %+v", <-signals)
	}
}
