// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/netshadow/settings/traffic"
)

// A Change tells that settings of an interface are not what they were.
type Change struct {
	Interface string
	Index     int
	Values    Values   // all settings, as they are now
	Keys      []string // what differs from the last Change, sorted
	Gone      bool     // the interface was unregistered, and is watched no more
}

// coalesce is how long a Watcher waits for more after the first notification of
// a burst: a tool that changes one thing makes the kernel announce up to four.
const coalesce = 10 * time.Millisecond

// receiveBuffer is the size of each notification socket's buffer in bytes: some
// thousand notifications, as when a container host starts.
const receiveBuffer = 4 << 20

// A Watcher follows the settings of network interfaces. Its methods may be
// called concurrently.
type Watcher struct {
	client   *Client
	cancel   context.CancelFunc
	changes  chan Change
	commands chan command
	done     chan struct{} // closed when the Watcher has ended
	err      error         // why, valid after done
}

// Watch begins to follow the settings of interfaces, of which it is told by Add. The
// Watcher ends with ctx or Close, and closes its channel of changes then. The Client
// must outlive it.
func (c *Client) Watch(ctx context.Context) (*Watcher, error) {
	s, err := dial()
	if err != nil {
		return nil, err
	}
	if err := s.join(); err != nil {
		return nil, errors.Join(&OpError{Op: "watch", Err: err}, s.close())
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &Watcher{
		client:   c,
		cancel:   cancel,
		changes:  make(chan Change),
		commands: make(chan command),
		done:     make(chan struct{}),
	}
	go w.run(ctx, s, c.log)
	return w, nil
}

// Close ends the Watcher and waits until it has ended.
func (w *Watcher) Close() {
	w.cancel()
	<-w.done
}

// Changes returns the channel of changes. Changes that nobody receives are
// merged; a setting that changed back is not reported at all.
func (w *Watcher) Changes() <-chan Change { return w.changes }

// Err returns why the Watcher ended: nil while it has not, the error of its
// context, or a failure of its sockets.
func (w *Watcher) Err() error {
	select {
	case <-w.done:
		return w.err
	default:
		return nil
	}
}

// Add begins to follow one more interface and returns its present settings of the
// scope, beside which others may be reported that come with them. Taken right after
// the driver's probe they are the interface's baseline.
func (w *Watcher) Add(ctx context.Context, ifname string, scope Scope) (Values, error) {
	link, err := w.client.link(ctx, ifname)
	if err != nil {
		return nil, err
	}
	all, err := w.do(ctx, command{op: opAdd, ifname: ifname, index: link.index, scope: scope})
	if err != nil {
		return nil, err
	}
	return all[ifname], nil
}

// Remove ends following an interface. It is no error if it is not followed.
func (w *Watcher) Remove(ctx context.Context, ifname string) error {
	_, err := w.do(ctx, command{op: opRemove, ifname: ifname})
	return err
}

// Sync returns the settings of all interfaces by name. Every change that was
// made before the call is in them, and no driver is asked: it is for the moment
// when a device may be gone. What the kernel keeps itself and does not announce is
// read: the settings of queues in sysfs, and a feature that somebody asked for and
// this device cannot have in its present state. It can be called on pause, after
// which nothing escapes: what was not yet received from Changes is in it, also of
// an interface that has gone meanwhile.
func (w *Watcher) Sync(ctx context.Context) (map[string]Values, error) {
	return w.do(ctx, command{op: opSync})
}

// Look reads again what changes without being announced, but by an ioctl, after
// somebody made one: receive hashing, rules and time stamps. It does not wait for the
// answers; what changed is on Changes.
func (w *Watcher) Look(ctx context.Context) error {
	_, err := w.do(ctx, command{op: opLook})
	return err
}

// Pause holds changes back: what happens until Resume is our own doing.
func (w *Watcher) Pause(ctx context.Context) error {
	_, err := w.do(ctx, command{op: opPause})
	return err
}

// Resume reports changes again, and returns the settings of all interfaces to
// go on from, by name. Every change that was made before the call is in them,
// and not reported; every later one is. Resume asks the drivers: their devices
// must be alive.
func (w *Watcher) Resume(ctx context.Context) (map[string]Values, error) {
	return w.do(ctx, command{op: opResume})
}

type commandOp uint8

const (
	opAdd commandOp = iota
	opRemove
	opLook
	opSync
	opPause
	opResume
)

type command struct {
	op     commandOp
	ifname string
	index  int
	scope  Scope
	reply  chan<- result // has room for one
}

type result struct {
	values map[string]Values
	err    error
}

func (w *Watcher) do(ctx context.Context, cmd command) (map[string]Values, error) {
	reply := make(chan result, 1)
	cmd.reply = reply
	select {
	case w.commands <- cmd:
	case <-w.done:
		return nil, &OpError{"watch", cmd.ifname, w.ended()}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case r := <-reply:
		return r.values, r.err
	case <-w.done:
		return nil, &OpError{"watch", cmd.ifname, w.ended()}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (w *Watcher) ended() error { return fmt.Errorf("the watcher has ended: %w", w.err) }

// input is what a reader got from its socket.
type input struct {
	socket  int
	report  report
	ok      bool // report is valid
	ntf     bool // it is a notification, else the answer to a query
	overrun bool
	refused error // the query was refused
	failed  error // the socket is dead
}

// run owns the tracker.
func (w *Watcher) run(ctx context.Context, s *sockets, log *slog.Logger) {
	inputs := make(chan input)
	quit := make(chan struct{})
	var readers sync.WaitGroup
	readers.Go(func() { read(inputs, quit, s.receiveLink) })
	readers.Go(func() { read(inputs, quit, s.receiveEthtool) })
	calls := make(chan query, 1) // the tracker has one under way
	var caller sync.WaitGroup    // ends by itself, and before its socket is closed
	caller.Go(func() { read(inputs, quit, func(yield func(input) bool) { s.receiveCalls(calls, yield) }) })

	w.err = w.loop(ctx, s, inputs, calls, log)
	close(quit)
	close(calls)
	caller.Wait()
	if err := s.close(); err != nil {
		log.Debug("closing the watcher's sockets", "err", err)
	}
	readers.Wait()
	close(w.done)
	close(w.changes)
}

func (w *Watcher) loop(ctx context.Context, s *sockets, inputs <-chan input, calls chan<- query, log *slog.Logger) error {
	t := newTracker()
	var waiting []command // for the tracker to settle
	var quiet <-chan time.Time
	due := false
	for {
		for socket := range numSockets {
			q, ok := t.next(socket)
			switch {
			case !ok:
			case socket == socketCalls:
				calls <- q
			default:
				if err := s.send(q); err != nil {
					return &OpError{Op: "watch", Err: err}
				}
			}
		}
		if t.settled() {
			for _, cmd := range waiting {
				cmd.finish(t)
			}
			waiting = nil
		}
		change, ok := t.change()
		var out chan<- Change
		switch {
		case !ok || len(waiting) > 0:
			quiet, due = nil, false
		case due:
			out = w.changes
		case quiet == nil:
			quiet = time.After(coalesce)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case out <- change:
			t.delivered(change)
			quiet, due = nil, false
		case <-quiet:
			due = true
		case cmd := <-w.commands:
			if cmd.start(t) {
				waiting = append(waiting, cmd)
			}
		case in := <-inputs:
			switch {
			case in.failed != nil:
				return &OpError{Op: "watch", Err: in.failed}
			case in.overrun:
				log.Warn("notifications lost, reading settings again")
				t.overrun(in.socket)
			case errors.Is(in.refused, traffic.ErrTooMany):
				log.Warn("what changes there is not recorded", "err", in.refused)
				t.answered(in.socket, nil)
			case in.refused != nil:
				t.answered(in.socket, nil)
			case in.ok && in.ntf:
				t.notified(in.report)
			case in.ok:
				t.answered(in.socket, &in.report)
			}
		}
	}
}

// start begins a command, and reports whether it has to wait until the tracker
// is settled.
func (cmd command) start(t *tracker) bool {
	switch cmd.op {
	case opAdd:
		t.add(cmd.index, cmd.ifname, cmd.scope)
		return true
	case opRemove:
		for index, i := range t.ifaces {
			if i.name == cmd.ifname {
				t.remove(index)
			}
		}
		cmd.reply <- result{}
		return false
	case opLook:
		t.look(unannounced)
		cmd.reply <- result{}
		return false
	case opPause:
		t.paused = true
		cmd.reply <- result{}
		return false
	case opSync:
		t.askAll(remembered)
		return true
	}
	t.askAll(everyGroup)
	return true
}

func (cmd command) finish(t *tracker) {
	switch cmd.op {
	case opAdd:
		i := t.ifaces[cmd.index]
		if i == nil || i.gone || len(i.values) == 0 {
			t.remove(cmd.index)
			cmd.reply <- result{err: &OpError{"watch", cmd.ifname, unix.ENODEV}}
			return
		}
		i.told = i.values.clone()
		cmd.reply <- result{values: map[string]Values{cmd.ifname: i.values.clone()}}
	case opSync:
		cmd.reply <- result{values: t.known()}
	case opResume:
		t.paused = false
		t.rebase()
		cmd.reply <- result{values: t.known()}
	}
}

// read passes on what a socket receives until quit is closed or the socket
// fails.
func read(inputs chan<- input, quit <-chan struct{}, receive func(yield func(input) bool)) {
	receive(func(in input) bool {
		select {
		case inputs <- in:
			return true
		case <-quit:
			return false
		}
	})
}

// join subscribes to the notifications.
func (s *sockets) join() error {
	for _, g := range []uint32{unix.RTNLGRP_LINK, unix.RTNLGRP_TC} {
		if err := s.rt.JoinGroup(g); err != nil {
			return err
		}
	}
	group, err := s.monitor()
	if err != nil {
		return err
	}
	if err := s.ethtool.JoinGroup(group); err != nil {
		return err
	}
	return errors.Join(s.rt.SetReadBuffer(receiveBuffer), s.ethtool.SetReadBuffer(receiveBuffer))
}

// send sends a query on the socket that carries the group's notifications.
func (s *sockets) send(q query) error {
	if q.group == groupLink {
		req, err := linkRequest(q.index, "")
		if err != nil {
			return err
		}
		_, err = s.rt.Send(req)
		return err
	}
	req, err := ethtoolRequest(q.group, q.index)
	if err != nil {
		return err
	}
	_, err = s.ethtool.Send(req, s.family.ID, netlink.Request)
	return err
}

func (s *sockets) receiveLink(yield func(input) bool) {
	for {
		msgs, err := s.rt.Receive()
		if err != nil {
			if !yield(failureOf(socketLink, err)) {
				return
			}
			continue
		}
		for _, m := range msgs {
			if isTraffic(m) {
				r, ok := trafficNews(m)
				if !yield(inputOf(socketLink, r, true, ok, nil)) {
					return
				}
				continue
			}
			r, ok, err := parseLink(m)
			ntf := m.Header.PID != s.rt.PID()
			if !yield(inputOf(socketLink, r, ntf, ok, err)) {
				return
			}
		}
	}
}

func (s *sockets) receiveEthtool(yield func(input) bool) {
	for {
		msgs, _, err := s.ethtool.Receive()
		if err != nil {
			if !yield(failureOf(socketEthtool, err)) {
				return
			}
			continue
		}
		for _, m := range msgs {
			r, ntf, ok, err := parseEthtool(m, s.names)
			if !yield(inputOf(socketEthtool, r, ntf, ok, err)) {
				return
			}
		}
	}
}

// receiveCalls answers queries that no socket answers.
func (s *sockets) receiveCalls(queries <-chan query, yield func(input) bool) {
	for q := range queries {
		r, err := s.call(q.group, q.index)
		if !yield(inputOf(socketCalls, r, false, true, err)) {
			return
		}
	}
}

// inputOf wraps a parsed message. An answer that cannot be read is as good as
// none; a notification that cannot be read is none of ours.
func inputOf(socket int, r report, ntf, ok bool, err error) input {
	if err != nil && !ntf {
		return input{socket: socket, refused: err}
	}
	return input{socket: socket, report: r, ntf: ntf, ok: ok && err == nil}
}

// failureOf sorts the errors of a receiving socket.
func failureOf(socket int, err error) input {
	in := input{socket: socket}
	switch {
	case errors.Is(err, unix.ENOBUFS):
		in.overrun = true
	case errors.Is(err, os.ErrClosed), errors.Is(err, net.ErrClosed), errors.Is(err, unix.EBADF):
		in.failed = err
	default:
		// The kernel's refusal of a query.
		in.refused = err
	}
	return in
}
