// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package notify is how programs in the guest speak with PID 1: they leave
// descriptors with it that are to outlive them, tell it which role's network
// is up, and ask it to power off.
//
// The protocol is one JSON object in one datagram on the SEQPACKET socket
// /run/umbra/init.sock, answered by one:
//
//	{"op":"fdstore","name":"net0-tap"}   with the descriptor as SCM_RIGHTS
//	{"op":"fdremove","name":"net0-tap"}
//	{"op":"ready","name":"net0"}         the role's network is up
//	{"op":"unready","name":"net0"}
//	{"op":"recorded","name":"net0"}      what is changed of it is recorded
//	{"op":"poweroff"}, {"op":"reboot"}, {"op":"halt"}
//	{"op":"status"}                      answered with Reply.Status
//	{"op":"logs","name":"app","after":7} answered with Reply.Lines; no name: of all
//
// Lines of programs are numbered. An answer has the oldest that are there with a number
// above "after", as many as fit; with "wait":true, PID 1 waits up to [LogsWait] for one.
// Those of PID 1 itself are under the name "init".
//
// Only root may speak. The package imports nothing of umbra.
package notify

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Path is where PID 1 listens.
const Path = "/run/umbra/init.sock"

// Limits of a datagram in bytes. A longer request is refused, and PID 1 never
// sends a longer reply.
const (
	MaxRequest = 4096
	MaxReply   = 64 << 10
)

// LogsWait is how long PID 1 waits for a line. It does so for a few clients at once, and
// answers more of them at once.
const LogsWait = 20 * time.Second

// Op is what is asked for.
type Op string

// The operations.
const (
	FDStore  Op = "fdstore"
	FDRemove Op = "fdremove"
	Ready    Op = "ready"
	Unready  Op = "unready"
	Recorded Op = "recorded"
	PowerOff Op = "poweroff"
	Reboot   Op = "reboot"
	Halt     Op = "halt"
	Report   Op = "status"
	Logs     Op = "logs"
)

// ErrRequest is matched by every error about the form of a request.
var ErrRequest = errors.New("bad request")

// Request is one request.
type Request struct {
	Op   Op     `json:"op"`
	Name string `json:"name,omitempty"`

	// Of [Logs].
	After uint64 `json:"after,omitempty"`
	Wait  bool   `json:"wait,omitempty"`
}

// Reply answers a Request.
type Reply struct {
	OK     bool    `json:"ok"`
	Error  string  `json:"error,omitempty"`
	Status *Status `json:"status,omitempty"`
	Lines  []Line  `json:"lines,omitempty"`
	Last   uint64  `json:"last,omitempty"` // number of the newest line of all
}

// Line is one line that a program printed.
type Line struct {
	N    uint64    `json:"n"` // counts the lines of all programs together, from 1, without gaps
	At   time.Time `json:"at"`
	From string    `json:"from"` // the program's name
	Text string    `json:"text"`
}

// Status is what PID 1 knows of itself and its children.
type Status struct {
	Uptime   time.Duration   `json:"uptime_ns"`
	Services []Service       `json:"services"`
	Roles    map[string]bool `json:"roles"` // whose networks are up
	FDs      []string        `json:"fds,omitempty"`
	Orphans  int             `json:"orphans"`          // reaped for others
	Faults   []string        `json:"faults,omitempty"` // of the configuration: no service is started
}

// Service is the status of one supervised program.
type Service struct {
	Name     string        `json:"name"`
	State    string        `json:"state"`
	PID      int           `json:"pid,omitempty"`
	For      time.Duration `json:"for_ns,omitempty"` // in the present state
	Starts   int           `json:"starts"`
	LastExit string        `json:"last_exit,omitempty"`
}

// ParseRequest reads one datagram. Unknown keys are let pass, so that a newer
// client can speak with an older PID 1; what an operation needs must be there.
func ParseRequest(datagram []byte) (Request, error) {
	var r Request
	if len(datagram) > MaxRequest {
		return r, fmt.Errorf("%w: longer than %d bytes", ErrRequest, MaxRequest)
	}
	if err := json.Unmarshal(datagram, &r); err != nil {
		return Request{}, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	switch r.Op {
	case FDStore, FDRemove, Ready, Unready, Recorded:
		if r.Name == "" {
			return Request{}, fmt.Errorf("%w: %s needs a name", ErrRequest, r.Op)
		}
	case PowerOff, Reboot, Halt, Report, Logs:
	default:
		return Request{}, fmt.Errorf("%w: unknown op %q", ErrRequest, string(r.Op))
	}
	return r, nil
}
