// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netshadow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/journal"
	"github.com/umbra-vm/umbra/shadow/netshadow/dump"
	"github.com/umbra-vm/umbra/shadow/netshadow/stack"
)

// factQueues is the journal's fact with what bounds neighbours' queues in passive mode, by
// the file that sets it.
const factQueues = "neighbour-queues"

// factNeighbours is the journal's fact with the neighbours that are pinned.
const factNeighbours = "neighbours"

// A neighbour is a host on the link whose hardware address the kernel knows.
type neighbour struct {
	Index  int              `json:"index"`  // of the interface that it is behind
	Family int              `json:"family"` // AF_INET or AF_INET6
	IP     net.IP           `json:"ip"`
	MAC    net.HardwareAddr `json:"mac"`
	State  int              `json:"state"` // NUD_*, linux/neighbour.h
	Flags  int              `json:"flags"` // NTF_*
}

// valid are the states of an entry that frames are sent with (NUD_VALID), but
// for NUD_NOARP, which the kernel makes itself whenever it needs one.
const valid = unix.NUD_PERMANENT | unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE

// forgotten is how long an entry that was deleted is remembered: longer than
// from a failover that the kernel makes by itself until Activate. Since an alert none is
// forgotten.
const forgotten = 3 * time.Second

// alertTime is how long after an alert a guest may take to get to active mode.
const alertTime = time.Minute

// neighbours keeps what the kernel knows of the hosts on the proxy's link, also
// through interfaces of this namespace that are stacked on the proxy. A
// frame is held only once its neighbour is known, and in active mode nobody
// can be asked; but the kernel forgets: an entry ages in seconds without an
// answer, and a bond's failover drops all of them (net/ipv4/arp.c,
// arp_netdev_event, NETDEV_CHANGEADDR). So the entries are pinned in active mode
// and put back after each failover. What is sent between the two waits in the
// kernel's own queue of an entry that it makes anew, which is given room for what
// may be held, and time: between the two the agent may be killed. It is given both as soon
// as the device may be gone: a guest that has little time takes longer to find out than
// the kernel to give up an entry, and what waits for it. A failover is no change of
// address for what is stacked, but for ipvlans: those entries only age, and to pin them is
// all they need.
type neighbours struct {
	proxy   string
	nl      *netlink.Handle
	room    int // bytes that an entry's queue takes in active mode
	journal *journal.Journal
	log     *slog.Logger

	mu     sync.Mutex
	queues map[string]string    // their bounds in passive mode, by file; nil while they have these
	alert  time.Time            // the first of those that relax ends
	relax  *time.Timer          // ends them; nil if there is none
	known  map[string]neighbour // while not pinned
	gone   map[string]time.Time // entries of known that were deleted, and when
	pinned []neighbour          // with the state they had; nil in passive mode
	follow sync.Once
}

func newNeighbours(p proxy, room int, j *journal.Journal, log *slog.Logger) (*neighbours, error) {
	n := &neighbours{proxy: p.name, nl: p.nl, room: room, journal: j, log: log, known: make(map[string]neighbour), gone: make(map[string]time.Time)}
	_, err := j.State().Fact(factNeighbours, &n.pinned)
	if err == nil {
		_, err = j.State().Fact(factQueues, &n.queues)
	}
	if n.queues != nil { // a predecessor was killed after an alert
		n.expect()
	}
	return n, err
}

// expect gives what waits for a neighbour room and time for a while: the device may be
// gone, and the kernel about to find that nobody answers.
func (n *neighbours) expect() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pinned != nil || ifindex(n.proxy) == 0 {
		return
	}
	if n.queues == nil {
		n.widen()
	}
	if n.relax == nil {
		n.alert = time.Now()
	} else {
		n.relax.Stop()
	}
	var t *time.Timer
	t = time.AfterFunc(alertTime, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.relax == t { // it may have been too late to stop this one
			n.relax = nil
			n.narrow()
		}
	})
	n.relax = t
}

// watch begins to follow the kernel's table; more calls do nothing. It costs
// one message for each change of an entry.
func (n *neighbours) watch(ctx context.Context) {
	n.follow.Do(func() {
		ctx := context.WithoutCancel(ctx)
		updates := make(chan netlink.NeighUpdate, 256)
		err := netlink.NeighSubscribeWithOptions(updates, ctx.Done(), netlink.NeighSubscribeOptions{
			ErrorCallback: func(err error) { n.log.Warn("news of neighbours lost", "err", err) },
		})
		if err != nil {
			n.log.Warn("neighbours are not followed: those that the kernel forgets before the shadow is active are lost", "err", err)
			return
		}
		// The subscription's own ListExisting sends its question to all other
		// subscribers too, who take it for an error.
		n.mu.Lock()
		for _, e := range n.table(ifindex(n.proxy)) {
			n.known[e.IP.String()] = e
		}
		n.mu.Unlock()
		go func() {
			for u := range updates {
				n.learn(u, ifindex(n.proxy))
			}
		}()
	})
}

func (n *neighbours) learn(u netlink.NeighUpdate, index int) {
	if u.LinkIndex != index || (u.Family != unix.AF_INET && u.Family != unix.AF_INET6) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pinned != nil {
		return // our own doing
	}
	key := u.IP.String()
	if u.Type == unix.RTM_DELNEIGH || u.State&valid == 0 {
		if _, ok := n.known[key]; ok {
			n.gone[key] = time.Now()
		}
		return
	}
	delete(n.gone, key)
	n.known[key] = neighbour{index, u.Family, u.IP, u.HardwareAddr, u.State, u.Flags}
}

// pin makes every entry permanent, those included that were dropped just now.
// Pinning again puts back what a failover dropped.
func (n *neighbours) pin() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pinned == nil {
		n.pinned = n.collect(ifindex(n.proxy))
		n.note(n.journal.Fact(factNeighbours, n.pinned))
		if n.queues == nil {
			n.widen()
		}
		if n.relax != nil {
			n.relax.Stop()
			n.relax = nil
		}
	}
	for _, e := range n.pinned {
		n.set(e, unix.NUD_PERMANENT)
	}
}

// collect returns the entries of the kernel's table and those of the proxy that it
// forgot a moment ago, never nil.
func (n *neighbours) collect(index int) []neighbour {
	entries := make(map[string]neighbour)
	since := time.Now()
	if n.relax != nil {
		since = n.alert
	}
	for key, e := range n.known {
		if at, gone := n.gone[key]; gone && since.Sub(at) < forgotten {
			entries[key] = e
		}
	}
	for _, e := range n.table(index) {
		entries[e.IP.String()] = e
	}
	clear(n.known)
	clear(n.gone)
	out := make([]neighbour, 0, len(entries))
	for _, e := range entries {
		out = append(out, e)
	}
	stacked, err := stack.On(index)
	if err != nil {
		n.log.Warn("neighbours of what is stacked on the proxy may age", "err", err)
	}
	for _, i := range stacked.Interfaces {
		if i.Index != index {
			out = append(out, n.table(i.Index)...)
		}
	}
	return out
}

// table returns the entries of an interface that frames are sent with.
func (n *neighbours) table(index int) (out []neighbour) {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		list, err := dump.Whole(func() ([]netlink.Neigh, error) { return n.nl.NeighList(index, family) })
		if err != nil {
			n.log.Warn("neighbours not read", "err", err)
			continue
		}
		for _, e := range list {
			if e.State&valid != 0 {
				out = append(out, neighbour{index, family, e.IP, e.HardwareAddr, e.State, e.Flags})
			}
		}
	}
	return out
}

// unpin gives the kernel its table back. What was not permanent before is
// stale: used at once, and verified with the next answer.
func (n *neighbours) unpin() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pinned == nil {
		return
	}
	index := ifindex(n.proxy)
	for _, e := range n.pinned {
		state := unix.NUD_STALE
		if e.State&unix.NUD_PERMANENT != 0 {
			state = unix.NUD_PERMANENT
		} else if e.Index == index {
			n.known[e.IP.String()] = e
		}
		n.set(e, state)
	}
	n.pinned = nil
	n.note(n.journal.Fact(factNeighbours, nil))
	n.narrow()
}

// patience is how often the kernel asks for a neighbour in active mode before it drops what
// waits for it, once a second: for longer than a successor of this process needs.
const patience = 120

// bounds are the files that bound what waits for one neighbour, in bytes and in questions
// (Documentation/networking/ip-sysctl.rst, unres_qlen_bytes; mcast_solicit is said in
// net/ipv4/arp.c and net/ipv6/ndisc.c), and what is in them in active mode.
func (n *neighbours) bounds() map[string]int {
	out := make(map[string]int)
	for _, family := range []string{"ipv4", "ipv6"} {
		dir := filepath.Join("/proc/sys/net", family, "neigh", n.proxy)
		out[filepath.Join(dir, "unres_qlen_bytes")] = n.room
		out[filepath.Join(dir, "mcast_solicit")] = patience
	}
	return out
}

// widen makes the queues of entries as large as what may be held, and lets them wait.
func (n *neighbours) widen() {
	n.queues = make(map[string]string)
	wide := n.bounds()
	for file, bound := range wide {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // a kernel without IPv6
		}
		text := strings.TrimSpace(string(b))
		if now, err := strconv.Atoi(text); err == nil && now < bound {
			n.queues[file] = text
		}
	}
	n.note(n.journal.Fact(factQueues, n.queues))
	for file := range n.queues {
		n.bound(file, strconv.Itoa(wide[file]))
	}
}

// narrow gives the queues their bounds back.
func (n *neighbours) narrow() {
	for file, text := range n.queues {
		n.bound(file, text)
	}
	n.queues = nil
	n.note(n.journal.Fact(factQueues, nil))
}

func (n *neighbours) bound(file, text string) {
	if err := os.WriteFile(file, []byte(text), 0); err != nil {
		n.log.Warn("neighbours' queues keep their bounds", "err", err)
	}
}

func (n *neighbours) set(e neighbour, state int) {
	err := n.nl.NeighSet(&netlink.Neigh{
		LinkIndex: e.Index, Family: e.Family, IP: e.IP, HardwareAddr: e.MAC, State: state, Flags: e.Flags,
	})
	if err != nil && !errors.Is(err, unix.ENODEV) {
		n.log.Warn("neighbour not kept", "ip", e.IP, "err", fmt.Errorf("set its entry: %w", err))
	}
}

func (n *neighbours) note(err error) {
	if err != nil {
		n.log.Error("journal not written", "err", err)
	}
}
