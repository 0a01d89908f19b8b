// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/umbra-vm/umbra/ci/demo"
	"github.com/umbra-vm/umbra/image"
)

func newDemo() *cobra.Command {
	var control bool
	var dir, source string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "watch a guest live through live migrations to other NICs",
		Long: `Demo builds a guest image, boots it in QEMU with an e1000 as its only NIC, and
moves the running guest to hosts with an RTL8139, a virtio-net in another slot,
and an e1000 again. A program in the guest keeps a TCP connection and sends
numbered datagrams to a peer outside, which checks every byte.

It needs neither root nor KVM, and touches no setting of this machine. The exit
code is 1 if the connection was reset or a byte or an outgoing datagram was
lost, which is what --control shows.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			live := out == os.Stdout && term.IsTerminal(int(os.Stdout.Fd()))
			_, err := demo.Run(cmd.Context(), demo.Options{
				Dir: dir, Control: control, Out: out, Live: live, Options: image.Options{Source: source},
			})
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVar(&control, "control", false, "leave the shadow out: plain driver reload and re-configuration")
	f.StringVarP(&dir, "output", "o", "out/demo", "directory for report.json, timeline.svg and the consoles")
	f.StringVar(&source, "source", "", "directory of umbra's source (default: the one around the working directory)")
	return cmd
}
