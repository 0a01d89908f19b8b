// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"

	"github.com/umbra-vm/umbra/init/notify"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// pid1Client asks PID 1 and answers in the words of the host's protocol.
type pid1Client struct{ *notify.Client }

// Services implements agent.PID1.
func (c pid1Client) Services(ctx context.Context) ([]ctl.Service, error) {
	st, err := c.Status(ctx)
	if err != nil {
		return nil, err
	}
	return ctlServices(st), nil
}

// Lines implements agent.PID1.
func (c pid1Client) Lines(ctx context.Context, a ctl.LogsArgs) (ctl.Logs, error) {
	lines, last, err := c.LinesAfter(ctx, a.Service, a.After, false)
	return ctl.Logs{Lines: ctlLines(lines), Last: last}, err
}

func ctlServices(st *notify.Status) []ctl.Service {
	services := make([]ctl.Service, len(st.Services))
	for i, s := range st.Services {
		services[i] = ctl.Service(s)
	}
	return services
}

func ctlLines(lines []notify.Line) []ctl.Line {
	out := make([]ctl.Line, len(lines))
	for i, l := range lines {
		out[i] = ctl.Line(l)
	}
	return out
}
