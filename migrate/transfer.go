// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package migrate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/umbra-vm/umbra/migrate/qmp"
	"github.com/umbra-vm/umbra/migrate/stream"
)

// graceTime is how long to wait for the other half of a bad piece of news: a
// process that closed one socket is about to close the next.
const graceTime = 5 * time.Second

// migrateInfo is the part of query-migrate that is looked at.
type migrateInfo struct {
	Status string `json:"status"`
	Error  string `json:"error-desc"`
}

func queryMigrate(ctx context.Context, c *qmp.Client) (migrateInfo, error) {
	var info migrateInfo
	err := c.Execute(ctx, "query-migrate", nil, &info)
	return info, err
}

// finished reports whether a source with that migration status sends no more.
func (i migrateInfo) finished() bool {
	switch i.Status {
	case "", "none", "completed", "failed", "cancelled":
		return true
	}
	return false
}

// lost replaces the error of a monitor that went away by the one for its side.
func lost(c *qmp.Client, side, err error) error {
	if c.Err() == nil {
		return err
	}
	return fmt.Errorf("%w: %w", side, err)
}

// transfer sends the guest until the destination has been given all of it. When
// it returns no byte is under way any more.
func (m *migration) transfer(ctx context.Context) error {
	out, err := m.dial(ctx)
	if err != nil {
		return opError("connect to the destination", err)
	}
	defer out.Close()
	in, err := m.startSource(ctx)
	if err != nil {
		return opError("start the source", err)
	}
	defer in.Close()
	m.notify(StageConnected, time.Now(), nil)

	relayCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	relayed := make(chan error, 1)
	go func() { relayed <- m.relay(relayCtx, out, in) }()

	err = m.follow(ctx, relayed)
	if errors.Is(err, errCut) {
		cancel()
		in.Close()
		out.Close()
		// The cause is known; what the relay says of its cut ends adds nothing.
		<-relayed
		return opError("relay", context.Cause(ctx))
	}
	if err != nil {
		return opError("relay", m.explain(ctx, err))
	}
	return nil
}

// errCut: the relay still runs, and has to be stopped.
var errCut = errors.New("relay cut")

// follow watches the source's events until the relay is done.
func (m *migration) follow(ctx context.Context, relayed <-chan error) error {
	for {
		select {
		case err := <-relayed:
			m.readSource()
			return err
		case <-m.srcEvents.Ready():
			m.readSource()
		case <-ctx.Done():
			return errCut
		}
	}
}

// readSource takes note of what the source has said so far. Failures need no
// attention here: they end the stream, and explain asks for the reason.
func (m *migration) readSource() {
	for e, ok := m.srcEvents.TryNext(); ok; e, ok = m.srcEvents.TryNext() {
		if e.Event.Event == "STOP" {
			m.report.StoppedAt = e.Time()
			m.notify(StageStopped, e.Time(), nil)
		}
	}
}

// relay runs the relay proper.
func (m *migration) relay(ctx context.Context, out, in net.Conn) error {
	rep, err := stream.Relay(out, in, stream.Options{
		Drop:      m.report.Direct,
		KeepLines: m.opts.KeepLines,
		Progress: func(s stream.Stats) {
			m.notify(StageRAM, time.Now(), &s)
		},
		DeviceState: func() { m.notify(StageDeviceState, time.Now(), nil) },
		Commit:      func() error { return m.commit(ctx) },
	})
	if err != nil {
		return err
	}
	m.report.Report = *rep
	return nil
}

// commit is asked by the relay before it sends the end mark.
func (m *migration) commit(ctx context.Context) error {
	if err := m.sourceStopped(ctx); err != nil {
		return err
	}
	m.notify(StageForwarded, time.Now(), nil)
	return nil
}

// sourceStopped makes sure that the source will not run the guest again unless
// it is told to. QEMU closes the stream only after it has come to that state, or
// failed.
func (m *migration) sourceStopped(ctx context.Context) error {
	info, err := queryMigrate(ctx, m.src)
	if err != nil {
		return lost(m.src, ErrSourceLost, err)
	}
	if info.Status != "completed" {
		return sourceError(info)
	}
	status, err := m.src.Status(ctx)
	if err != nil {
		return lost(m.src, ErrSourceLost, err)
	}
	if status != "postmigrate" {
		return fmt.Errorf("%w: after the migration its state is %q", ErrMigration, status)
	}
	return nil
}

// explain finds out why the relay ended as it did, and returns that with what
// the relay said.
func (m *migration) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	grace, cancel := context.WithTimeout(ctx, graceTime)
	defer cancel()
	switch {
	case errors.Is(err, stream.ErrForward):
		select {
		case <-m.dst.Done():
			return fmt.Errorf("%w: %w", ErrDestinationLost, err)
		case <-grace.Done():
		}
	case errors.Is(err, stream.ErrTruncated):
		info, qerr := m.waitFinished(grace)
		if m.src.Err() != nil {
			return fmt.Errorf("%w: %w", ErrSourceLost, err)
		}
		if qerr == nil {
			return fmt.Errorf("%w: %w", sourceError(info), err)
		}
	}
	return err
}

func sourceError(info migrateInfo) error {
	switch {
	case info.Status == "cancelled" || info.Status == "cancelling":
		return ErrCancelled
	case info.Error != "":
		return fmt.Errorf("%w: %s", ErrMigration, info.Error)
	}
	return fmt.Errorf("%w: status %q", ErrMigration, info.Status)
}

// waitFinished waits until the source sends no more.
func (m *migration) waitFinished(ctx context.Context) (migrateInfo, error) {
	for {
		info, err := queryMigrate(ctx, m.src)
		if err != nil || info.finished() {
			return info, err
		}
		if err := pause(ctx); err != nil {
			return info, err
		}
	}
}

// pause is the time between two looks at a state that has no event.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(5 * time.Millisecond):
		return nil
	}
}

// dial connects to where the destination waits.
func (m *migration) dial(ctx context.Context) (net.Conn, error) {
	network, addr, _ := strings.Cut(m.opts.Incoming, ":")
	if addr == "" || network != "unix" && network != "tcp" {
		return nil, fmt.Errorf("address %q: want unix:PATH or tcp:HOST:PORT", m.opts.Incoming)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

// startSource starts the migration and returns the end of it that the source
// writes to. Only this process can reach the socket in between.
func (m *migration) startSource(ctx context.Context) (net.Conn, error) {
	dir, err := os.MkdirTemp("", "umbra-migrate-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "relay")
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	defer l.Close()

	// Whatever ends the wait closes the listener.
	waitCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(waitCtx, func() { l.Close() })()
	go func() {
		select {
		case <-m.src.Done():
			cancel(fmt.Errorf("%w: %w", ErrSourceLost, m.src.Err()))
		case <-waitCtx.Done():
		}
	}()

	if err := m.src.Execute(waitCtx, "migrate", map[string]string{"uri": "unix:" + path}, nil); err != nil {
		return nil, lost(m.src, ErrSourceLost, err)
	}
	conn, err := l.Accept()
	if cause := context.Cause(waitCtx); err != nil && cause != nil {
		return nil, cause
	}
	return conn, err
}
