// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package signals

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/umbra-vm/umbra/drivers/xenstore"
)

// MigrationNode is where a patched toolstack writes that and how the guest arrived,
// before it lets it run (hypervisor-patches/xen-4.17/README.md). On stock Xen it
// does not exist, and is watched all the same.
const MigrationNode = "control/arrival"

// Xenstore is a [Watcher] of Xen's xenstore: each watch fires once when a guest goes
// on after a migration or a restore, whatever the toolstack writes.
type Xenstore struct {
	log  *slog.Logger
	conn *xenstore.Conn
}

// NewXenstore watches [MigrationNode]. An error is an [*UnavailableError]: this is no
// Xen guest, or one that was told not to use paravirtual drivers. A nil logger
// discards.
func NewXenstore(logger *slog.Logger) (*Xenstore, error) {
	c, err := xenstore.Open()
	if err != nil {
		return nil, &UnavailableError{XenStore, err}
	}
	x, err := newXenstore(logger, c)
	if err != nil {
		c.Close()
		return nil, &UnavailableError{XenStore, err}
	}
	return x, nil
}

func newXenstore(logger *slog.Logger, c *xenstore.Conn) (*Xenstore, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if err := c.Watch(MigrationNode); err != nil {
		return nil, err
	}
	// A watch fires at once when it is made, and says nothing by that.
	if _, err := c.Changed(); err != nil {
		return nil, err
	}
	return &Xenstore{logger, c}, nil
}

// Source implements [Watcher].
func (x *Xenstore) Source() Source { return XenStore }

// Watch implements [Watcher]. It closes the connection when it returns. The detail of
// a signal is the value of the node, where there is one.
func (x *Xenstore) Watch(ctx context.Context, emit func(Migrated)) error {
	defer x.conn.Close()
	defer context.AfterFunc(ctx, func() { x.conn.Close() })()
	for {
		_, err := x.conn.Changed()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("signals: %w", err)
		}
		at := Now()
		detail, err := x.conn.Read(MigrationNode)
		if err != nil && !errors.Is(err, xenstore.ErrNoEntry) && ctx.Err() == nil {
			x.log.Warn("signals: what the toolstack says", "err", err)
		}
		emit(Migrated{Source: XenStore, At: at, Detail: detail})
	}
}
