// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package ctl

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// PortName is the name of the agent's virtio-serial port: what QEMU is given
// as -device virtserialport,name=, and what the guest finds in
// /sys/class/virtio-ports/*/name.
const PortName = "org.umbra.ctl"

// SocketPath is where the agent listens in the guest. LookPath is where it answers only
// what changes nothing, for the status page; it is there if that is.
const (
	SocketPath = "/run/umbra/shadow.sock"
	LookPath   = "/run/umbra/look.sock"
)

// The commands that the agent answers. Of services and logs it asks PID 1.
const (
	CmdStatus   = "status"   // no arguments; data is Status
	CmdLog      = "log"      // RoleArgs; data is []LogEntry
	CmdTimeline = "timeline" // RoleArgs; data is []Timeline, oldest first
	CmdClock    = "clock"    // no arguments; data is Clock
	CmdServices = "services" // no arguments; data is []Service
	CmdLogs     = "logs"     // LogsArgs; data is Logs
	CmdMigrated = "migrated" // Migrated; no data
	CmdReload   = "reload"   // RoleArgs; data is Timeline
	CmdUnplug   = "unplug"   // Unplug; no data
	CmdCheck    = "check"    // Check; data is CheckReport
)

// The modes of a role.
const (
	ModePassive = "passive" // the device serves the proxy; the shadow only listens
	ModeActive  = "active"  // the shadow stands in for the driver
)

// The causes of a recovery.
const (
	CauseMigration = "migration"
	CauseHotplug   = "hot-plug"
	CauseReload    = "reload"
	CauseUnplug    = "unplug" // the host said beforehand that it takes the device away
)

// The stamps of a timeline, in the order in which a recovery in place reaches
// them. With new hardware at another address "unloaded" comes later, because
// the old driver is then unloaded off the critical path.
const (
	StampResumed   = "resumed"   // the guest's CPUs run again; the host says when
	StampDetected  = "detected"  // the shadow knows that the device is gone
	StampActive    = "active"    // the proxy's traffic is held
	StampHarvested = "harvested" // the dead driver's queues have been copied out
	StampUnloaded  = "unloaded"  // the old driver let go of the device
	StampScanned   = "scanned"   // the bus has been scanned for new hardware
	StampProbed    = "probed"    // a driver is bound to the new device
	StampOpened    = "opened"    // the new device is up
	StampLink      = "link"      // the new device has carrier
	StampReplayed  = "replayed"  // the log has been replayed on it
	StampStandby   = "standby"   // the new device is the standby, and carries what is sent from here on
	StampReleased  = "released"  // what was held has been sent
	StampPassive   = "passive"   // the role is in passive mode again
)

// StampNames lists the stamps in their nominal order.
func StampNames() []string {
	return []string{
		StampResumed, StampDetected, StampActive, StampHarvested, StampUnloaded, StampScanned,
		StampProbed, StampOpened, StampLink, StampReplayed, StampStandby, StampReleased, StampPassive,
	}
}

// Status is the state of the agent and of all roles.
type Status struct {
	Version  string `json:"version"`
	Shadow   string `json:"shadow"` // "on" or "off" (control mode: plain driver reload)
	Hostname string `json:"hostname,omitempty"`
	Kernel   string `json:"kernel,omitempty"` // release, as uname -r
	// Boottime is when the status was taken, in ns of CLOCK_BOOTTIME.
	Boottime   int64        `json:"boottime_ns"`
	Roles      []RoleStatus `json:"roles"`
	Recoveries int          `json:"recoveries"` // finished since boot, all roles
	// Faults are why the guest's configuration was refused: services are not started.
	Faults       []string  `json:"faults,omitempty"`
	LastTimeline *Timeline `json:"last_timeline,omitempty"`
	Data         *Data     `json:"data,omitempty"`   // nil if the guest is to have none
	Update       *Update   `json:"update,omitempty"` // nil if it was not booted from a slot
}

// The states of the version that runs.
const (
	UpdateConfirmed = "confirmed" // it has proved itself
	UpdateOnTrial   = "on trial"
	UpdateNoSlot    = "no slot" // nothing is known of it on a disk with slots
)

// Update is what is known of the versions of the image on the guest's disk.
type Update struct {
	State   string `json:"state"`
	Version string `json:"version,omitempty"`
	// TriesLeft are those of the version that runs, if it is on trial.
	TriesLeft int    `json:"tries_left,omitempty"`
	Next      string `json:"next,omitempty"`   // is booted next time, if it is another
	Failed    string `json:"failed,omitempty"` // has not proved itself
	Message   string `json:"message,omitempty"`
}

// Data is the disk on which the guest keeps what is to outlive its boot.
type Data struct {
	State  string `json:"state"` // "mounted", "read-only" or "waiting"
	Path   string `json:"path"`
	Device string `json:"device,omitempty"` // block device
	Size   int64  `json:"size,omitempty"`   // in bytes, as is Free
	Free   int64  `json:"free,omitempty"`
	// Errors counts those of the file system since e2fsck looked last.
	Errors  int    `json:"errors,omitempty"`
	Message string `json:"message,omitempty"` // what a person must know
}

// RoleStatus is the state of one role.
type RoleStatus struct {
	Name   string `json:"name"`
	Class  string `json:"class"`
	Mode   string `json:"mode"` // ModePassive or ModeActive
	Proxy  string `json:"proxy,omitempty"`
	Device string `json:"device,omitempty"` // BDF; empty while the role has none of its own
	Driver string `json:"driver,omitempty"`
	// Standby is the bus address of the device that stands by, empty if none does.
	// OnStandby says that what is sent goes over it: the role has no device, or one
	// that is not ready yet. That is passive mode too, as a driver serves the proxy.
	Standby   string `json:"standby,omitempty"`
	OnStandby bool   `json:"on_standby,omitempty"`
	Iface     string `json:"iface,omitempty"` // the device's own interface
	MAC       string `json:"mac,omitempty"`
	Carrier   bool   `json:"carrier"`
	Since     int64  `json:"since_boottime_ns"` // when the mode was entered, CLOCK_BOOTTIME
	Log       int    `json:"log"`               // operations in the log
	Held      int    `json:"held"`              // frames held now
	Deferred  int    `json:"deferred"`          // operations that the device cannot do
	// Shortcut is nil unless the role is to have one.
	Shortcut *Shortcut `json:"shortcut,omitempty"`
	Message  string    `json:"message,omitempty"` // what a person must know, e.g. why a role is vacant
}

// Shortcut tells of the routes around a role's proxy. In active mode there are none.
type Shortcut struct {
	Routes   int    `json:"routes"`
	Obstacle string `json:"obstacle,omitempty"` // why there can be none
}

// String says it for a person.
func (s Shortcut) String() string {
	if s.Obstacle != "" {
		return "no route leads around the proxy: " + s.Obstacle
	}
	return count(s.Routes, "route leads", "routes lead") + " around the proxy"
}

// Timeline is the record of one recovery.
type Timeline struct {
	Recovery uint64     `json:"recovery"` // counts the role's recoveries from 1
	Role     string     `json:"role"`
	Cause    string     `json:"cause"`
	From     string     `json:"from"`                // the old device, e.g. "e1000 0000:00:02.0"
	To       string     `json:"to"`                  // the new device
	Started  int64      `json:"started_boottime_ns"` // CLOCK_BOOTTIME
	Stamps   []Stamp    `json:"stamps"`
	Frames   Frames     `json:"frames"`
	Deferred []Deferred `json:"deferred,omitempty"`
	Error    string     `json:"error,omitempty"` // why the recovery failed; empty if it did not
}

// Stamp is one point that a recovery reached.
type Stamp struct {
	Name string `json:"name"`
	At   int64  `json:"at_ns"` // CLOCK_MONOTONIC
}

// Frames counts what became of the frames that applications sent during a
// recovery.
type Frames struct {
	Held      int `json:"held"`      // kept back on the proxy
	Harvested int `json:"harvested"` // copied out of the dead driver's queues
	Resent    int `json:"resent"`    // of the harvested, sent on the new device
	Dropped   int `json:"dropped"`   // over a bound, or refused by the new device
}

// Deferred is an operation that the device at hand cannot do. It stays in the
// log and is tried again on the next device.
type Deferred struct {
	Op     string `json:"op"` // e.g. "net.ring.rx=512"
	Reason string `json:"reason"`
}

// LogEntry is one operation of a role's log.
type LogEntry struct {
	Role     string `json:"role"`
	Key      string `json:"key"`
	Value    string `json:"value"`
	Deferred string `json:"deferred,omitempty"` // why it is deferred; empty if it is not
}

// Service is a program that PID 1 looks after.
type Service struct {
	Name     string        `json:"name"`
	State    string        `json:"state"` // e.g. "running"
	PID      int           `json:"pid,omitempty"`
	For      time.Duration `json:"for_ns,omitempty"` // in that state
	Starts   int           `json:"starts"`
	LastExit string        `json:"last_exit,omitempty"`
}

// LogsArgs asks for lines that a program has printed, or any program if Service is empty:
// the oldest that PID 1 remembers with a number above After, as many as it sends at once.
type LogsArgs struct {
	Service string `json:"service,omitempty"`
	After   uint64 `json:"after,omitempty"`
}

// Logs are lines of programs. Last is the number of the newest line of all, when it was
// asked.
type Logs struct {
	Lines []Line `json:"lines"`
	Last  uint64 `json:"last"`
}

// Line is one line that a program printed.
type Line struct {
	N    uint64    `json:"n"` // counts the lines of all programs together
	At   time.Time `json:"at"`
	From string    `json:"from"`
	Text string    `json:"text"`
}

// Clock is the guest's time, for a host that wants to place the stamps of a
// timeline in its own.
type Clock struct {
	Monotonic int64 `json:"monotonic_ns"`
	Boottime  int64 `json:"boottime_ns"`
	Realtime  int64 `json:"realtime_ns"` // since 1970
}

// Migrated tells the agent that the guest has been migrated.
type Migrated struct {
	Generation string `json:"generation"`     // names this migration, for the log
	ResumedAgo int64  `json:"resumed_ago_ns"` // how long ago the CPUs were started
}

// Unplug tells the agent that the host is about to unplug a device, so that it can be
// given up while it works. The reply comes when it has been.
type Unplug struct {
	Device string `json:"device"` // its bus address in the guest, e.g. "0000:00:02.0"
	// Within is how long the host will try, in ns. A device that is still there
	// then is used again. 0 says so at once: the host leaves it.
	Within int64 `json:"within_ns"`
}

// RoleArgs names the role that a command is about. For a command that can
// speak of all roles an empty one means all.
type RoleArgs struct {
	Role string `json:"role,omitempty"`
}

// ReadClock reads the clocks of this machine.
func ReadClock() (Clock, error) {
	var mono, boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono); err != nil {
		return Clock{}, fmt.Errorf("reading CLOCK_MONOTONIC: %w", err)
	}
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return Clock{}, fmt.Errorf("reading CLOCK_BOOTTIME: %w", err)
	}
	return Clock{Monotonic: mono.Nano(), Boottime: boot.Nano(), Realtime: time.Now().UnixNano()}, nil
}

// Stamp returns when the recovery reached the stamp called name, in ns of
// CLOCK_MONOTONIC.
func (t Timeline) Stamp(name string) (at int64, ok bool) {
	i := slices.IndexFunc(t.Stamps, func(s Stamp) bool { return s.Name == name })
	if i < 0 {
		return 0, false
	}
	return t.Stamps[i].At, true
}

// Origin is the time from which a timeline is told, in ns of CLOCK_MONOTONIC:
// the stamp "resumed", or the earliest one of a recovery that no migration
// caused.
func (t Timeline) Origin() int64 {
	if at, ok := t.Stamp(StampResumed); ok {
		return at
	}
	if s := t.sorted(); len(s) > 0 {
		return s[0].At
	}
	return 0
}

// Since returns how long after the origin the stamp called name was reached.
func (t Timeline) Since(name string) (time.Duration, bool) {
	at, ok := t.Stamp(name)
	return time.Duration(at - t.Origin()), ok
}

// Milliseconds maps each stamp to its distance from the origin in ms.
func (t Timeline) Milliseconds() map[string]float64 {
	origin := t.Origin()
	ms := make(map[string]float64, len(t.Stamps))
	for _, s := range t.Stamps {
		ms[s.Name] = float64(s.At-origin) / 1e6
	}
	return ms
}

// CompareStamps orders stamps by their time, and those of the same time as
// [StampNames] does.
func CompareStamps(a, b Stamp) int {
	return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(stampRank(a.Name), stampRank(b.Name)))
}

func stampRank(name string) int { return slices.Index(StampNames(), name) }

// sorted returns the stamps in the order of time.
func (t Timeline) sorted() []Stamp {
	return slices.SortedStableFunc(slices.Values(t.Stamps), CompareStamps)
}
