// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package agent

import (
	"context"
	"log/slog"

	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// looking are the commands that change nothing. Whatever is not among them is not for
// the status page, which strangers may speak with.
var looking = []string{ctl.CmdStatus, ctl.CmdLog, ctl.CmdTimeline, ctl.CmdClock, ctl.CmdServices, ctl.CmdLogs}

// serveLook answers the status page until ctx ends, which is no error.
func serveLook(ctx context.Context, commands map[string]ctl.Handler, log *slog.Logger) error {
	l, err := ctl.ListenFor(ctl.LookPath, config.StatusUser)
	if err != nil {
		return err
	}
	return ctl.NewServer(onlyLooking(commands), log).Serve(ctx, l)
}

func onlyLooking(commands map[string]ctl.Handler) map[string]ctl.Handler {
	some := make(map[string]ctl.Handler)
	for _, name := range looking {
		some[name] = commands[name]
	}
	return some
}
