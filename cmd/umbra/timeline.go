// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/umbra-vm/umbra/shadow/ctl"
	"github.com/umbra-vm/umbra/shadow/ctl/timeline"
)

func newTimeline() *cobra.Command {
	var (
		q   question
		svg string
	)
	cmd := &cobra.Command{
		Use:   "timeline DIR|SOCKET [ROLE]",
		Short: "show what a running guest's recoveries took",
		Long: `Timeline prints the last recoveries of a role, or of all, oldest first: when each
stamp was reached, and what became of frames. With --svg they are drawn.` + aMachine,
		Example: "  umbra timeline out/app net0\n  umbra timeline out/app --svg recoveries.svg",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var all []ctl.Timeline
			if err := q.call(cmd, args[0], ctl.CmdTimeline, roleOf(args), &all); err != nil {
				return err
			}
			if svg != "" {
				return drawTimelines(svg, roleOf(args).Role, all)
			}
			return q.show(cmd, all, func(w io.Writer) error { return ctl.RenderTimelines(w, all) })
		},
	}
	q.flagsOf(cmd)
	cmd.Flags().StringVar(&svg, "svg", "", "draw them into this file instead")
	cmd.MarkFlagsMutuallyExclusive("svg", "json")
	return cmd
}

func drawTimelines(file, role string, all []ctl.Timeline) error {
	p := timeline.Picture{Title: "umbra: recoveries"}
	if role != "" {
		p.Title += " of " + role
	}
	for _, t := range all {
		p.Rows = append(p.Rows, timeline.Recovery(t))
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(p.WriteSVG(f), f.Close())
}
