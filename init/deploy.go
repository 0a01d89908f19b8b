// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/internal/boot"
	"github.com/umbra-vm/umbra/init/internal/deploy"
)

// deployProgram is the name of the program that finds what is configured at deploy time.
const deployProgram = "deploy"

// deployLimit bounds how long everything else waits for it: a disk that does not answer
// is given up by Linux after 30 s (SD_TIMEOUT), and tried again.
const deployLimit = 2 * time.Minute

// deployPath is where it leaves what it found.
var deployPath = filepath.Join(boot.RunDir, "deploy.json")

// gather is the program.
func gather([]string) int {
	log := daemonLogger(deployProgram, false)
	image, cmdline := builtin()
	r := deploy.Gather(context.Background(), log, image, cmdline, deploy.Sources(log, image, cmdline, boot.RunDir)...)
	for _, d := range r.Documents {
		log.Info("configuration: " + d)
	}
	if err := r.Save(deployPath); err != nil {
		log.Error("what is configured at deploy time is lost", "err", err)
		return 1
	}
	return 0
}

// builtin returns the configuration that the image brings along, and the kernel command
// line. What cannot be read is empty, and is no valid configuration.
func builtin() (image []byte, cmdline string) {
	image, _ = os.ReadFile(config.Path)
	words, _ := os.ReadFile("/proc/cmdline")
	return image, string(words)
}

// loadConfig returns what the guest is to be, and why that is not what was asked for,
// if so. A guest with half a configuration can be asked what is wrong with it.
func loadConfig() (*config.Config, []string) {
	image, cmdline := builtin()
	r := deploy.Load(deployPath, image, cmdline)
	return r.Config, r.Faults
}

// deployed waits for the program that finds what is configured at deploy time.
func (p *pid1) deployed(self string) error {
	out, drained, err := p.output(deployProgram)
	if err != nil {
		return err
	}
	proc, err := p.reaper.Start(self, []string{"init", deployProgram}, &syscall.ProcAttr{
		Dir: "/", Files: []uintptr{0, out.Fd(), out.Fd()},
	})
	out.Close()
	if err != nil {
		return err
	}
	select {
	case <-proc.Done():
		<-drained
	case <-time.After(deployLimit):
		return errors.Join(fmt.Errorf("not done after %v", deployLimit), proc.Signal(unix.SIGKILL))
	}
	if exit := proc.Exit(); !exit.OK() {
		return fmt.Errorf("ended with %v", exit)
	}
	return nil
}

// configure gets the configuration and makes the machine what it says. Without one that
// can be relied on no service is started: with half of what they are told programs do
// harm. Roles are brought up as the image has them, so that the guest can be asked.
func (p *pid1) configure(self string) *config.Config {
	if err := p.deployed(self); err != nil {
		p.log.Error("what is configured at deploy time", "err", err)
	}
	cfg, faults := loadConfig()
	p.level.Set(level(cfg.Debug))
	for _, f := range faults {
		p.log.Error("configuration refused: " + f)
	}
	if len(faults) > 0 {
		p.log.Error("NO SERVICE IS STARTED; roles are as the image has them", "faults", len(faults))
		cfg.Services = nil
		p.faults = faults
	}
	if err := boot.Hostname(cfg.Hostname); err != nil {
		p.log.Warn("host name", "err", err)
	}
	if err := boot.AuthorizedKeys(config.AuthorizedKeysPath, cfg.AuthorizedKeys); err != nil {
		p.log.Warn("authorized keys", "err", err)
	}
	return cfg
}
