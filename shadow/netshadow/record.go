// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netshadow

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"

	"github.com/umbra-vm/umbra/shadow"
	"github.com/umbra-vm/umbra/shadow/ctl"
	"github.com/umbra-vm/umbra/shadow/journal"
	"github.com/umbra-vm/umbra/shadow/netshadow/settings"
	"github.com/umbra-vm/umbra/shadow/oplog"
)

// factRecorder is the journal's fact that lets a successor go on recording.
const factRecorder = "recorder"

// recorder keeps a role's log of settings: it follows the proxy and the
// device's interface in passive mode, and replays on the next device.
type recorder struct {
	client  *settings.Client
	proxy   string
	journal *journal.Journal
	log     *slog.Logger

	baseline settings.Values     // the present device's, taken at its probe
	unfit    []settings.Deferred // what it was found not to take before the replay

	mu        sync.Mutex // guards the rest
	watcher   *settings.Watcher
	listening bool // what changes of the proxy and iface is somebody's wish
	iface     string
	ops       *oplog.Log
	state     *settings.Recorder
}

func newRecorder(client *settings.Client, proxy string, j *journal.Journal, log *slog.Logger) (*recorder, error) {
	st := j.State()
	r := &recorder{client: client, proxy: proxy, journal: j, log: log, ops: st.Log}
	saved := new(settings.Recorder)
	found, err := st.Fact(factRecorder, saved)
	if err != nil {
		return nil, err
	}
	if found {
		r.state = saved
	}
	return r, nil
}

// following returns the watcher and the interface that it follows beside the
// proxy; nil if nothing is followed yet.
func (r *recorder) following() (w *settings.Watcher, iface string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.watcher, r.iface
}

// pause ends the recording: what happens from here on is the shadow's doing,
// or a dying device's. What was changed up to now and not yet told, or is never
// told, is in what Sync returns; the device is not asked.
func (r *recorder) pause(ctx context.Context) {
	w, iface := r.following()
	if w == nil {
		return
	}
	r.setListening(false)
	if err := w.Pause(ctx); err != nil {
		r.log.Warn("settings: pause", "err", err)
		return
	}
	now, err := w.Sync(ctx)
	if err != nil {
		r.log.Warn("settings: what was changed last is not recorded", "err", err)
		return
	}
	r.observe(ofInterface(now[r.proxy], settings.Proxy))
	r.observe(ofInterface(now[iface], settings.Device))
}

func (r *recorder) setListening(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listening = on
}

// listens reports whether changes are recorded.
func (r *recorder) listens() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.listening
}

// fresh reports whether nothing was ever recorded: the proxy's first device is being
// opened.
func (r *recorder) fresh() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state == nil
}

// ofPorts are the settings of a bond that follow from those of all its ports
// (drivers/net/bonding/bond_main.c, bond_compute_features).
var ofPorts = []string{"net.gso.max-size", "net.gso.max-segs"}

// aside calls do, which changes the ports of the proxy in passive mode, and takes what
// comes of it for nobody's wish. What somebody changes meanwhile is recorded.
func (r *recorder) aside(ctx context.Context, do func() error) error {
	r.mu.Lock()
	w, iface, listening := r.watcher, r.iface, r.listening
	r.mu.Unlock()
	if !listening {
		return do()
	}
	r.pause(ctx)
	err := do()
	now, werr := w.Resume(ctx)
	if werr != nil {
		r.log.Error("settings are no longer recorded", "err", werr)
		return err
	}
	derived := make(settings.Values)
	for _, key := range ofPorts {
		if value, ok := now[r.proxy][key]; ok {
			derived[key] = value
		}
	}
	r.mu.Lock()
	r.listening = true
	r.state.Rebase(derived)
	r.note(r.journal.Fact(factRecorder, r.state))
	r.mu.Unlock()
	r.observe(ofInterface(now[r.proxy], settings.Proxy))
	r.observe(ofInterface(now[iface], settings.Device))
	return err
}

// look reads again what somebody may have changed by an ioctl.
func (r *recorder) look(ctx context.Context) {
	w, _ := r.following()
	if w == nil {
		return
	}
	if err := w.Look(ctx); err != nil {
		r.log.Warn("settings: what an ioctl changed is not recorded", "err", err)
	}
}

// ofInterface returns the settings of one of a role's interfaces, as it has them.
// The proxy's MAC is not among them: the interface has that of its active port,
// and what was asked for is told apart, see asked.
func ofInterface(v settings.Values, scope settings.Scope) settings.Values {
	in := v.In(scope)
	delete(in, keyMAC)
	return in
}

// Keys of the role's MAC and MTU in its log.
const (
	keyMAC = "net.mac"
	keyMTU = "net.mtu"
)

// asked records the MAC that somebody gave to the proxy.
func (r *recorder) asked(mac net.HardwareAddr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state == nil { // the proxy's first device is not open yet
		r.record([]oplog.Op{oplog.Set(keyMAC, mac.String())})
		return
	}
	r.record(r.state.Observe(settings.Values{keyMAC: mac.String()}))
}

// mac returns the role's MAC: that of the log, else the one that the proxy was
// made with, else def.
func (r *recorder) mac(def net.HardwareAddr) net.HardwareAddr {
	r.mu.Lock()
	defer r.mu.Unlock()
	text, ok := r.ops.Get(keyMAC)
	if !ok && r.state != nil {
		text = r.state.Baseline[keyMAC]
	}
	if mac, err := net.ParseMAC(text); err == nil {
		return mac
	}
	return def
}

// forget ends the following of interfaces that are leaving the role.
func (r *recorder) forget(ctx context.Context, ifaces []string) {
	w, _ := r.following()
	if w == nil {
		return
	}
	for _, name := range ifaces {
		if err := w.Remove(ctx, name); err != nil {
			r.log.Warn("settings: forget", "iface", name, "err", err)
		}
	}
}

// begin takes the settings with which the driver brought iface up, and replays
// what must come before it is opened.
func (r *recorder) begin(ctx context.Context, iface string) error {
	base, err := r.client.Snapshot(ctx, iface)
	if err != nil {
		return err
	}
	r.baseline, r.unfit = base, nil
	// What the driver refuses while it is down is tried again by replay.
	_, err = r.apply(ctx, iface, r.deviceOps(), settings.BeforeOpen)
	return err
}

// replay applies the rest of the log to the open interface and marks what it
// cannot do as deferred.
func (r *recorder) replay(ctx context.Context, iface string, rec *shadow.Recovery) error {
	deferred, err := r.apply(ctx, iface, r.deviceOps(), settings.AfterOpen)
	if err != nil {
		return err
	}
	// The proxy has kept what was asked of it, but for what its devices may not
	// exceed: a bond takes a limit of segmentation from them and never gives it back
	// (netif_set_tso_max_size).
	more, err := r.apply(ctx, r.proxy, r.proxyOps(), settings.AfterOpen)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	deferred = slices.Concat(deferred, more, r.unfit)
	for _, e := range r.ops.Deferred() {
		r.note(r.journal.Defer(e.Op, ""))
	}
	r.ops.ClearDeferred()
	for _, d := range deferred {
		r.ops.Defer(d.Op, d.Reason)
		r.note(r.journal.Defer(d.Op, d.Reason))
		rec.Defer(ctl.Deferred{Op: d.Op.String(), Reason: d.Reason})
	}
	return nil
}

// apply replays operations; where there are none, nobody is asked about anything.
func (r *recorder) apply(ctx context.Context, iface string, ops []oplog.Op, phase settings.Phase) ([]settings.Deferred, error) {
	if len(ops) == 0 {
		return nil, nil
	}
	return r.client.Apply(ctx, iface, ops, phase)
}

func (r *recorder) deviceOps() []oplog.Op {
	r.mu.Lock()
	defer r.mu.Unlock()
	return settings.In(r.ops.Snapshot(), settings.Device)
}

// proxyOps returns the operations on the proxy but for its MAC and MTU, which have
// their own ways, see mac and deferMTU.
func (r *recorder) proxyOps() []oplog.Op {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(settings.In(r.ops.Snapshot(), settings.Proxy), func(op oplog.Op) bool {
		return op.Key == keyMAC || op.Key == keyMTU
	})
}

// resume goes back to passive mode: from here on a change of the proxy or of
// iface is somebody's wish. If it is so already, nothing is done: what has been changed
// and not been told yet would be taken for the shadow's doing.
func (r *recorder) resume(ctx context.Context, iface string) error {
	w, last := r.following()
	if r.listens() && last == iface {
		return nil
	}
	if w == nil {
		var err error
		if w, err = r.watch(ctx, map[string]settings.Scope{r.proxy: settings.Proxy}); err != nil {
			return err
		}
		r.follow(w)
		if err := w.Pause(ctx); err != nil {
			return err
		}
	}
	if _, err := w.Add(ctx, iface, settings.Device); err != nil {
		return err
	}
	now, err := w.Resume(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	base := r.baseline.In(settings.Device)
	proxyBase := now[r.proxy].In(settings.Proxy)
	if r.state != nil {
		proxyBase = r.state.Baseline.In(settings.Proxy)
	}
	for k, v := range proxyBase {
		base[k] = v
	}
	r.iface, r.listening = iface, true
	r.state = settings.NewRecorder(base, r.ops.Snapshot())
	r.state.Rebase(now[iface].In(settings.Device))
	r.state.Rebase(now[r.proxy].In(settings.Proxy))
	r.note(r.journal.Fact(factRecorder, r.state))
	return nil
}

// adopt goes on where a predecessor stopped, and records what was changed
// while nobody looked.
func (r *recorder) adopt(ctx context.Context, iface string) error {
	if w, _ := r.following(); w != nil || r.state == nil {
		return nil
	}
	ifaces := map[string]settings.Scope{r.proxy: settings.Proxy, iface: settings.Device}
	w, err := r.watch(ctx, ifaces)
	if err != nil {
		return err
	}
	r.mu.Lock()
	for _, e := range r.ops.Deferred() { // the predecessor may have seen another device last
		r.state.Lacks(e.Op)
	}
	r.mu.Unlock()
	for name, scope := range ifaces {
		now, err := r.client.Snapshot(ctx, name)
		if err != nil {
			return err
		}
		r.observe(ofInterface(now, scope))
	}
	r.mu.Lock()
	r.iface, r.listening = iface, true
	r.mu.Unlock()
	r.follow(w)
	return nil
}

// watch returns a watcher of interfaces, which outlives the recovery that began it.
func (r *recorder) watch(ctx context.Context, ifaces map[string]settings.Scope) (*settings.Watcher, error) {
	w, err := r.client.Watch(context.WithoutCancel(ctx))
	if err != nil {
		return nil, err
	}
	for name, scope := range ifaces {
		if _, err := w.Add(ctx, name, scope); err != nil {
			w.Close()
			return nil, err
		}
	}
	return w, nil
}

// follow makes w the watcher, and records what it tells until it ends.
func (r *recorder) follow(w *settings.Watcher) {
	r.mu.Lock()
	r.watcher = w
	r.mu.Unlock()
	go r.take(w)
}

// take records what a watcher tells. The values of an interface that is gone are
// those that it had.
func (r *recorder) take(w *settings.Watcher) {
	for c := range w.Changes() {
		_, iface := r.following()
		switch c.Interface {
		case r.proxy:
			r.observe(ofInterface(c.Values, settings.Proxy))
		case iface:
			r.observe(c.Values.In(settings.Device))
		}
	}
	if err := w.Err(); err != nil && !errors.Is(err, context.Canceled) {
		r.log.Error("settings are no longer recorded", "err", err)
	}
}

// observe takes values into the log and the journal.
func (r *recorder) observe(now settings.Values) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.record(r.state.Observe(now))
}

// record takes operations into the log and the journal. It needs the lock.
func (r *recorder) record(ops []oplog.Op) {
	for _, op := range ops {
		changed, err := r.ops.Apply(op)
		if err != nil {
			r.log.Error("setting not recorded", "op", op.String(), "err", err)
			continue
		}
		if changed {
			r.note(r.journal.Op(op))
			r.log.Info("recorded", "op", op.String())
		}
	}
	if len(ops) > 0 && r.state != nil {
		r.note(r.journal.Fact(factRecorder, r.state))
	}
}

// deferMTU notes for the next replay that the new device cannot take an MTU.
func (r *recorder) deferMTU(mtu int, reason string) {
	r.unfit = append(r.unfit, settings.Deferred{Op: oplog.Set(keyMTU, strconv.Itoa(mtu)), Reason: reason})
}

// deferMAC notes for the next replay that the new device does not take the role's MAC.
// That becomes part of the log, whoever chose it: the proxy, which has another now,
// does not remember it.
func (r *recorder) deferMAC(mac net.HardwareAddr, reason string) {
	op := oplog.Set(keyMAC, mac.String())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.record([]oplog.Op{op})
	r.unfit = append(r.unfit, settings.Deferred{Op: op, Reason: reason})
}

// mtu returns the MTU that the log asks for, or def.
func (r *recorder) mtu(def int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v, ok := r.ops.Get(keyMTU); ok {
		if n, err := strconv.Atoi(v); err == nil {
			return n
		}
	}
	return def
}

func (r *recorder) counts() (ops, deferred int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ops.Len(), len(r.ops.Deferred())
}

func (r *recorder) entries(role string) []ctl.LogEntry {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []ctl.LogEntry
	for _, e := range r.ops.Entries() {
		out = append(out, ctl.LogEntry{Role: role, Key: e.Op.Key, Value: e.Op.Value, Deferred: e.Deferred})
	}
	return out
}

func (r *recorder) note(err error) {
	if err != nil {
		r.log.Error("journal not written", "err", err)
	}
}
