// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/umbra-vm/umbra/migrate/xen/pcifront"
)

func newPCIFront() *cobra.Command {
	return &cobra.Command{
		Use:   "pcifront DOMAIN [PAGE]",
		Short: "in a Xen host's dom0: stand in for the devices that a paravirtual guest has left",
		Long: `Pcifront is for paravirtual guests of Xen that are moved with a device in use; umbra migrate
--xen runs it by itself. On the source, it prints the page of its memory by which the
guest asks for its devices. On the destination, which may not have the domain yet, it
answers there as if nothing were plugged in, has the guest give its old devices up, and
ends then. The domain must have no device until that; xl pci-attach gives it one.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return findPage(args[0], cmd.OutOrStdout())
			}
			return answerPage(cmd.Context(), args[0], args[1], cmd.OutOrStdout())
		},
	}
}

func findPage(name string, stdout io.Writer) error {
	d, stop, err := pcifront.Open()
	if err != nil {
		return refused(err)
	}
	defer stop()
	p, err := d.Find(name)
	if err != nil {
		return refused(err)
	}
	_, err = fmt.Fprintln(stdout, p)
	return err
}

func answerPage(ctx context.Context, name, text string, stdout io.Writer) error {
	page, err := pcifront.Parse(text)
	if err != nil {
		return &codeError{exitUsage, err}
	}
	d, stop, err := pcifront.Open()
	if err != nil {
		return refused(err)
	}
	defer stop()
	answered, err := d.Answer(ctx, name, page, func() { fmt.Fprintln(stdout, pcifront.Ready) })
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, "answered", answered)
	return err
}
