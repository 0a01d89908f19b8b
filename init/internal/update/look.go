// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package update

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/umbra-vm/umbra/init/config/slot"
	"github.com/umbra-vm/umbra/init/internal/onestep"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// The states of the version that runs.
const (
	Confirmed = ctl.UpdateConfirmed
	OnTrial   = ctl.UpdateOnTrial
	NoSlot    = ctl.UpdateNoSlot
)

// Status is what is known of the versions on the disk.
type Status struct {
	State   string `json:"state"`
	Version string `json:"version,omitempty"` // that runs
	// TriesLeft are those of the version that runs, if it is on trial.
	TriesLeft int    `json:"tries_left,omitempty"`
	Next      string `json:"next,omitempty"`   // is booted next time, if it is another
	Failed    string `json:"failed,omitempty"` // has not proved itself
	Message   string `json:"message,omitempty"`
}

// statusFile is where it is kept, in a directory that does not outlive the boot.
const statusFile = "update.json"

func statusOf(d slot.Disk) Status {
	s := Status{State: Confirmed, Version: d.Running.Version, TriesLeft: d.Running.Left}
	if d.Running.OnTrial {
		s.State = OnTrial
	}
	if e, ok := d.Next(); ok {
		s.Next = e.Version
	}
	if e, ok := d.Failed(); ok {
		s.Failed = e.Version
		s.Message = fmt.Sprintf("%s did not prove itself in %d tries", e.Version, e.Done)
	}
	return s
}

// save replaces the file.
func (s Status) save(file string) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return onestep.Replace(file, text, 0o644)
}

// Look returns what was found in the directory run.
func Look(run string) Status {
	s := Status{State: NoSlot, Message: "nobody has looked for the disk yet"}
	var found Status
	if text, err := os.ReadFile(filepath.Join(run, statusFile)); err == nil && json.Unmarshal(text, &found) == nil {
		s = found
	}
	return s
}
